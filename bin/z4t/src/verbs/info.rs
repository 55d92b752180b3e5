//! `info`: the host, its cluster and its shards. JSON unless a table is asked for, because scripts read it.

use std::time::Duration;

use serde::Serialize;
use z4_client::{Client, Info, ReplicaRole};

use crate::failure::Failure;
use crate::output;
use crate::time::format_span;

#[derive(Serialize)]
struct InfoJson<'a> {
    server_id: &'a str,
    leader_address: &'a str,
    members: Vec<MemberJson<'a>>,
    cluster_name: &'a str,
    cluster_id: &'a str,
    version: &'a str,
    uptime_seconds: u64,
    shards: Vec<ShardJson<'a>>,
}

#[derive(Serialize)]
struct MemberJson<'a> {
    id: &'a str,
    address: &'a str,
    service_address: &'a str,
    /// Of its replica of the registry.
    role: &'a str,
    leader: bool,
    draining: bool,
}

#[derive(Serialize)]
struct ShardJson<'a> {
    id: u32,
    leader: &'a str,
    replica: u64,
    role: &'a str,
    term: u64,
    commit: u64,
    applied: u64,
    last_index: u64,
    digest: &'a str,
}

pub(super) async fn run(client: &Client, table: bool) -> Result<(), Failure> {
    let info = client.info().await?;
    let uptime: Duration = info.uptime.and_then(|span| span.try_into().ok()).unwrap_or_default();
    if table {
        return print_table(&info, uptime);
    }
    let members = info.members.iter().map(|m| MemberJson {
        id: &m.id,
        address: &m.address,
        service_address: &m.service_address,
        role: role(m.role()),
        leader: m.leader,
        draining: m.draining,
    });
    let shards = info.shards.iter().map(|s| ShardJson {
        id: s.id,
        leader: &s.leader,
        replica: s.replica,
        role: role(s.role()),
        term: s.term,
        commit: s.commit,
        applied: s.applied,
        last_index: s.last_index,
        digest: &s.digest,
    });
    output::pretty(&InfoJson {
        server_id: &info.server_id,
        leader_address: &info.leader_address,
        members: members.collect(),
        cluster_name: &info.cluster_name,
        cluster_id: &info.cluster_id,
        version: &info.version,
        uptime_seconds: uptime.as_secs(),
        shards: shards.collect(),
    })
}

fn print_table(info: &Info, uptime: Duration) -> Result<(), Failure> {
    output::fields(&[
        ("server", info.server_id.clone()),
        ("leader", info.leader_address.clone()),
        ("cluster", format!("{} ({})", info.cluster_name, info.cluster_id)),
        ("version", info.version.clone()),
        ("up", format_span(uptime)),
    ])?;
    output::line("")?;
    let members: Vec<_> = info
        .members
        .iter()
        .map(|m| {
            let leader = if m.leader { "leader" } else { role(m.role()) };
            [m.id.clone(), m.address.clone(), m.service_address.clone(), leader.to_owned()]
        })
        .collect();
    output::table(["MEMBER", "ADDRESS", "SERVICE", "REGISTRY"], &members)?;
    output::line("")?;
    let shards: Vec<_> = info
        .shards
        .iter()
        .map(|s| {
            let counts = [s.term, s.commit, s.applied, s.last_index].map(|n| n.to_string());
            let [term, commit, applied, last] = counts;
            [s.id.to_string(), s.leader.clone(), term, commit, applied, last, s.digest.clone()]
        })
        .collect();
    output::table(["SHARD", "LEADER", "TERM", "COMMIT", "APPLIED", "LAST", "DIGEST"], &shards)
}

/// Returns a role as it is printed.
pub(super) fn role(role: ReplicaRole) -> &'static str {
    match role {
        ReplicaRole::Unspecified => "none",
        ReplicaRole::Voter => "voter",
        ReplicaRole::Learner => "learner",
        ReplicaRole::Leaving => "leaving",
    }
}
