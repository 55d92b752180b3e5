//! `task explain ID`: why a task is not running, and what would change that.

use serde_json::{Map, Value, json};
use z4_client::{Client, Explanation, Obstacle, TaskId};

use crate::failure::Failure;
use crate::output;
use crate::time::format_time;

pub(super) async fn run(client: &Client, id: TaskId, json: bool) -> Result<(), Failure> {
    let said = client.explain(id).await?;
    if json {
        let mut all = Map::from_iter([("id".to_owned(), json!(id.to_string()))]);
        all.extend(fields(&said));
        return output::json(&all);
    }
    let mut pairs = vec![
        ("id", id.to_string()),
        ("queue", said.queue.clone()),
        ("state", state(&said)),
        ("obstacle", word(&said)),
        ("because", said.because.clone()),
        ("would change it", said.remedy.clone()),
    ];
    if !said.group.is_empty() {
        pairs.insert(2, ("group", said.group.clone()));
    }
    output::fields(&pairs)
}

fn state(said: &Explanation) -> String {
    said.state().as_str_name().trim_start_matches("TASK_STATE_").to_lowercase()
}

/// Returns an obstacle in one lower-case word.
pub(super) fn word(said: &Explanation) -> String {
    said.obstacle().as_str_name().trim_start_matches("OBSTACLE_").to_lowercase()
}

/// Returns the facts of an obstacle that are set, as JSON.
pub(super) fn fields(said: &Explanation) -> Map<String, Value> {
    let time = |at: Option<z4_proto::Timestamp>| {
        at.and_then(|at| z4_proto::convert::millis(at, "time").ok()).map(format_time)
    };
    let behind = said.obstacle() == Obstacle::Behind;
    let limited = said.limit > 0;
    let held = said.obstacle() == Obstacle::GroupsHeld;
    let text = |text: &str| (!text.is_empty()).then(|| json!(text));
    let all = [
        ("obstacle", Some(json!(word(said)))),
        ("because", text(&said.because)),
        ("remedy", text(&said.remedy)),
        ("queue", text(&said.queue)),
        ("group", text(&said.group)),
        ("state", (said.state != 0).then(|| json!(state(said)))),
        ("until", time(said.until).map(Value::from)),
        ("since", time(said.since).map(Value::from)),
        ("consumer", text(&said.consumer)),
        ("leased", limited.then(|| json!(said.leased))),
        ("limit", limited.then(|| json!(said.limit))),
        ("serial", said.serial.then_some(json!(true))),
        ("tasks_ahead", behind.then(|| json!(said.tasks_ahead))),
        ("groups_ahead", behind.then(|| json!(said.groups_ahead))),
        ("served_priority", behind.then(|| json!(said.served_priority))),
        ("blockers", (!said.blockers.is_empty()).then(|| json!(said.blockers))),
        ("blockers_left", (said.blockers_left > 0).then(|| json!(said.blockers_left))),
        ("note", text(&said.note)),
        ("author", text(&said.author)),
        ("last_error", text(&said.last_error)),
        ("groups_full", held.then(|| json!(said.groups_full))),
        ("groups_slowed", held.then(|| json!(said.groups_slowed))),
        ("groups_rate", held.then(|| json!(said.groups_rate))),
        ("consumers", Some(json!(said.consumers))),
        ("waiting_consumers", Some(json!(said.waiting_consumers))),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
