//! `ping`: is the host there, and how far away?

use serde_json::json;
use z4_client::Client;

use crate::failure::Failure;
use crate::output;
use crate::time::format_time;

pub(super) async fn run(client: &Client, json: bool) -> Result<(), Failure> {
    let ping = client.ping().await?;
    let ms = ping.round_trip.as_secs_f64() * 1_000.0;
    if json {
        let ms = (ms * 1_000.0).round() / 1_000.0;
        let time = format_time(ping.time);
        return output::json(&json!({ "server_id": ping.server_id, "time": time, "round_trip_ms": ms }));
    }
    output::line(format_args!("pong from {} in {ms:.2} ms", ping.server_id))
}
