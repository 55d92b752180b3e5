//! `-p ADDRESS -id NAME add-peer`: adds a host to the cluster.
//!
//! It is a member when this returns; its replicas come by themselves afterwards, which `shard list` shows.

use serde_json::json;
use z4_client::Client;

use crate::failure::Failure;
use crate::output;

pub(super) async fn run(client: &Client, host: &str, address: &str, json: bool) -> Result<(), Failure> {
    client.add_peer(host, address).await?;
    if json {
        return output::json(&json!({ "id": host, "address": address, "added": true }));
    }
    output::line("peer added")
}
