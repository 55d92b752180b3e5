//! `queue explain QUEUE`: what holds a queue back now, the obstacle first that must go first.

use serde_json::json;
use z4_client::Client;

use super::task_explain::{fields, word};
use crate::failure::Failure;
use crate::output;

pub(super) async fn run(client: &Client, name: &str, json: bool) -> Result<(), Failure> {
    let said = client.explain_queue(name).await?;
    if json {
        let obstacles: Vec<_> = said.obstacles.iter().map(fields).collect();
        return output::json(&json!({
            "queue": name, "obstacles": obstacles, "consumers": said.consumers,
            "waiting_consumers": said.waiting_consumers,
        }));
    }
    if said.obstacles.is_empty() {
        return output::line(format_args!(
            "nothing holds queue {name} back: {} of its {} consumers wait for tasks",
            said.waiting_consumers, said.consumers
        ));
    }
    let rows: Vec<_> =
        said.obstacles.iter().map(|said| [word(said), said.because.clone(), said.remedy.clone()]).collect();
    output::table(["OBSTACLE", "BECAUSE", "WOULD CHANGE IT"], &rows)
}
