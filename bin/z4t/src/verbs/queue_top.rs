//! `queue top`: the queues with the largest backlogs, looked at again and again.
//!
//! On a terminal each look takes the place of the one before; elsewhere they follow each other, so that a file keeps them
//! all. The list of all queues is cheap; what is due and how fast it goes is asked only for the rows that are shown, all
//! at once.

use std::io::{IsTerminal as _, Write as _, stdout};

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use z4_client::{Client, Kind, Millis, Queue, QueueStats};
use z4_proto::convert::millis;

use super::consume::Signals;
use crate::args::QueueTop;
use crate::failure::Failure;
use crate::output;
use crate::time::{format_exact, format_time};

/// Queues of one page of the list.
const PAGE: u32 = 1_000;
/// Moves to the top left corner and forgets what was on the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// One row.
struct Row {
    queue: Queue,
    stats: QueueStats,
    paused: bool,
    /// When it was looked at, by the host's clock.
    now: Millis,
}

/// One look.
struct Look {
    /// By backlog, largest first.
    rows: Vec<Row>,
    queues: usize,
    waiting: u64,
    leased: u64,
    dead: u64,
}

pub(super) async fn run(client: &Client, top: QueueTop, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let redraws = !json && stdout().is_terminal();
    let mut next = Instant::now();
    let mut left = top.count;
    while left != Some(0) {
        let look = tokio::select! {
            biased;
            () = signals.stop() => return Ok(()),
            look = look(client, top.rows.into()) => look,
        };
        match look {
            Ok(look) if json => print_json(&look)?,
            Ok(look) => print(&look, redraws)?,
            // What is shown stays until there is something newer.
            Err(error) if error.is_retryable() && left != Some(1) && redraws => {
                output::talk(format_args!("{error}; looking again"));
            }
            Err(error) => return Err(error.into()),
        }
        left = left.map(|left| left - 1);
        next = (next + top.interval).max(Instant::now());
        if left != Some(0) {
            tokio::select! {
                () = signals.stop() => return Ok(()),
                () = sleep_until(next) => {}
            }
        }
    }
    Ok(())
}

async fn look(client: &Client, rows: usize) -> Result<Look, z4_client::Error> {
    let mut look = Look { rows: Vec::new(), queues: 0, waiting: 0, leased: 0, dead: 0 };
    let (mut largest, mut token): (Vec<Queue>, _) = (Vec::new(), String::new());
    loop {
        let page = client.list_queues(PAGE, &token).await?;
        for queue in page.items {
            look.queues += 1;
            look.waiting += queue.waiting;
            look.leased += queue.leased;
            look.dead += queue.dead;
            largest.push(queue);
        }
        // Never more than a page besides what is shown.
        largest.sort_by(|a, b| (b.waiting + b.leased, &a.name).cmp(&(a.waiting + a.leased, &b.name)));
        largest.truncate(rows);
        match page.next {
            Some(next) => token = next,
            None => break,
        }
    }
    let now = client.ping().await?.time;
    let mut asked = JoinSet::new();
    for (place, queue) in largest.into_iter().enumerate() {
        let client = client.clone();
        asked.spawn(async move {
            let stats = client.queue_stats(&queue.name).await?;
            let paused = client.queue_config(&queue.name).await?.pause.is_some();
            Ok::<_, z4_client::Error>((place, Row { queue, stats, paused, now }))
        });
    }
    let mut found = Vec::new();
    while let Some(row) = asked.join_next().await {
        match row {
            Ok(Ok(row)) => found.push(row),
            // Deleted since it was listed.
            Ok(Err(error)) if error.kind() == Kind::NotFound => {}
            Ok(Err(error)) => return Err(error),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    found.sort_by_key(|(place, _)| *place);
    look.rows = found.into_iter().map(|(_, row)| row).collect();
    Ok(look)
}

impl Row {
    /// Returns for how long the oldest due task has been due.
    fn oldest(&self) -> Option<std::time::Duration> {
        let at = millis(self.stats.oldest_due_at?, "oldest_due_at").ok()?;
        Some(std::time::Duration::from_millis(self.now.since(at).0))
    }
}

fn print(look: &Look, redraws: bool) -> Result<(), Failure> {
    let rows: Vec<_> = look
        .rows
        .iter()
        .map(|row| {
            let Row { queue, stats, paused, .. } = row;
            let [waiting, due, leased, dead] =
                [stats.waiting, stats.due, stats.leased, stats.dead].map(|count| count.to_string());
            let [pushed, delivered, acked] =
                [stats.created_per_second, stats.delivered_per_second, stats.acked_per_second].map(rate);
            let oldest = row.oldest().map_or_else(|| "-".to_owned(), whole);
            let paused = if *paused { "yes" } else { "" }.to_owned();
            [queue.name.clone(), waiting, due, leased, dead, pushed, delivered, acked, oldest, paused]
        })
        .collect();
    if redraws {
        let mut out = stdout().lock();
        write!(out, "{CLEAR}")?;
    }
    let now = look.rows.first().map(|row| format!(" at {}", format_time(row.now))).unwrap_or_default();
    output::line(format_args!(
        "{} queues{now}: {} waiting, {} leased, {} dead",
        look.queues, look.waiting, look.leased, look.dead
    ))?;
    let head = [
        "QUEUE",
        "WAITING",
        "DUE",
        "LEASED",
        "DEAD",
        "PUSHED/S",
        "DELIVERED/S",
        "ACKED/S",
        "OLDEST DUE",
        "PAUSED",
    ];
    output::table(head, &rows)
}

fn print_json(look: &Look) -> Result<(), Failure> {
    look.rows.iter().try_for_each(|row| {
        let Row { queue, stats, paused, now } = row;
        output::json(&json!({
            "time": format_time(*now),
            "queue": queue.name,
            "waiting": stats.waiting,
            "due": stats.due,
            "leased": stats.leased,
            "dead": stats.dead,
            "created_per_second": stats.created_per_second,
            "delivered_per_second": stats.delivered_per_second,
            "acked_per_second": stats.acked_per_second,
            "oldest_due_age_ms": row.oldest().map(|age| age.as_millis() as u64),
            "paused": paused,
        }))
    })
}

fn rate(per_second: f64) -> String {
    if per_second >= 100.0 { format!("{per_second:.0}") } else { format!("{per_second:.1}") }
}

/// Returns an age to the second, or to the millisecond below one.
fn whole(age: std::time::Duration) -> String {
    if age < std::time::Duration::from_secs(1) {
        return format_exact(age);
    }
    format_exact(std::time::Duration::from_secs(age.as_secs()))
}
