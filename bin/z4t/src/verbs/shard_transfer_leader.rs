//! `shard transfer-leader SHARD HOST`: hands the leadership of a shard over, and waits until it is done.

use serde_json::json;
use z4_client::Client;

use crate::failure::Failure;
use crate::output;

pub(super) async fn run(client: &Client, shard: u32, to: &str, json: bool) -> Result<(), Failure> {
    client.transfer_leader(shard, to).await?;
    if json {
        return output::json(&json!({ "shard": shard, "leader": to }));
    }
    output::line(format_args!("shard {shard} is led by {to}"))
}
