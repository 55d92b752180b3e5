//! `-id NAME remove-peer`: removes a host from the cluster, for good. Its leaders and replicas move away by themselves.

use serde_json::json;
use z4_client::Client;

use crate::failure::Failure;
use crate::output;

pub(super) async fn run(client: &Client, host: &str, json: bool) -> Result<(), Failure> {
    client.remove_peer(host).await?;
    if json {
        return output::json(&json!({ "id": host, "removed": true }));
    }
    output::line("peer removed")
}
