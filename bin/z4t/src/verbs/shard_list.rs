//! `shard list`: every shard of the cluster, who leads it, and where its replicas shall stand.

use serde::Serialize;
use z4_client::Client;

use super::info::role;
use crate::failure::Failure;
use crate::output;

#[derive(Serialize)]
struct ShardJson<'a> {
    id: u32,
    leader: &'a str,
    replicas: Vec<ReplicaJson<'a>>,
}

#[derive(Serialize)]
struct ReplicaJson<'a> {
    id: u64,
    host: &'a str,
    role: &'a str,
}

pub(super) async fn run(client: &Client, json: bool) -> Result<(), Failure> {
    let shards = client.list_shards().await?;
    if json {
        return shards.iter().try_for_each(|shard| {
            let replicas = shard.replicas.iter();
            let replicas =
                replicas.map(|each| ReplicaJson { id: each.id, host: &each.host, role: role(each.role()) });
            output::json(&ShardJson { id: shard.id, leader: &shard.leader, replicas: replicas.collect() })
        });
    }
    let rows: Vec<_> = shards
        .iter()
        .map(|shard| {
            let leader = if shard.leader.is_empty() { "-" } else { &shard.leader };
            let replicas: Vec<_> =
                shard.replicas.iter().map(|each| format!("{} ({})", each.host, role(each.role()))).collect();
            [shard.id.to_string(), leader.to_owned(), replicas.join(", ")]
        })
        .collect();
    output::table(["SHARD", "LEADER", "REPLICAS"], &rows)
}
