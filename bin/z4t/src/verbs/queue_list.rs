//! `queue list`: every queue with its counts.

use serde::Serialize;
use z4_client::{Client, Queue};

use crate::failure::Failure;
use crate::output;
use crate::time::format_time;

/// Queues of one page.
const PAGE: u32 = 1_000;

#[derive(Serialize)]
pub(super) struct QueueJson<'a> {
    queue: &'a str,
    shard: u32,
    waiting: u64,
    leased: u64,
    dead: u64,
    finished: u64,
    oldest_due_at: Option<String>,
}

impl<'a> QueueJson<'a> {
    pub(super) fn new(queue: &'a Queue) -> Self {
        Self {
            queue: &queue.name,
            shard: queue.shard,
            waiting: queue.waiting,
            leased: queue.leased,
            dead: queue.dead,
            finished: queue.finished,
            oldest_due_at: queue.oldest_due_at.map(format_time),
        }
    }
}

pub(super) async fn run(client: &Client, json: bool) -> Result<(), Failure> {
    let mut queues = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.list_queues(PAGE, &token).await?;
        if json {
            page.items.iter().try_for_each(|queue| output::json(&QueueJson::new(queue)))?;
        } else {
            queues.extend(page.items);
        }
        match page.next {
            Some(next) => token = next,
            None => break,
        }
    }
    if json {
        return Ok(());
    }
    let rows: Vec<_> = queues
        .into_iter()
        .map(|queue| {
            let [waiting, leased, dead, finished] =
                [queue.waiting, queue.leased, queue.dead, queue.finished].map(|count| count.to_string());
            [queue.name, queue.shard.to_string(), waiting, leased, dead, finished]
        })
        .collect();
    output::table(["QUEUE", "SHARD", "WAITING", "LEASED", "DEAD", "FINISHED"], &rows)
}
