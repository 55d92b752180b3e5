//! `task tail -q QUEUE`: events as they happen, one JSON object a line.
//!
//! A host that goes and a leader that changes are no end: the watch goes on behind the last line. A reader that does not read
//! holds up nothing but itself; if it is too slow for what the queue keeps, the verb ends and says where to go on.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio::time::Instant;
use z4_client::{Client, Event};

use super::consume::{Signals, at};
use super::queue_events::{EventJson, wish};
use crate::args::Tail;
use crate::failure::Failure;
use crate::output;

pub(super) async fn run(client: &Client, queue: Option<String>, tail: Tail) -> Result<(), Failure> {
    let queue =
        queue.ok_or_else(|| Failure::Usage("give the queue to follow: task tail -q QUEUE".to_owned()))?;
    let mut signals = Signals::listen()?;
    let name: Arc<str> = queue.as_str().into();
    let mut watch = client.watch(wish(queue, tail.which, tail.from));
    let mut left = tail.count;
    let mut idle_since = Instant::now();
    while left != Some(0) {
        let batch = tokio::select! {
            biased;
            () = signals.stop() => return Ok(()),
            batch = watch.next() => batch?,
            () = at(tail.idle.map(|idle| idle_since + idle)) => return Ok(()),
        };
        if batch.events.is_empty() {
            continue;
        }
        let mut events = batch.events;
        if let Some(left) = &mut left {
            events.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= events.len() as u64;
        }
        // On another thread, so that a reader that does not read cannot make us deaf.
        let writing = spawn_blocking({
            let name = Arc::clone(&name);
            move || print(&name, &events)
        });
        tokio::select! {
            () = signals.stop() => return Ok(()),
            printed = writing => {
                printed.map_err(|panic| Failure::Failed(format!("cannot write the output: {panic}")))??;
            }
        }
        idle_since = Instant::now();
    }
    Ok(())
}

fn print(queue: &str, events: &[Event]) -> Result<(), Failure> {
    events.iter().try_for_each(|event| output::json(&EventJson::new(queue, event)))
}
