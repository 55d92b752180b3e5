//! A new user's walk: one host, then all, then fewer, then all again; each task comes out exactly once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::fleet::{Ask, Fleet};

/// For everything that takes an election, a snapshot, or the start of a process.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tasks of one push.
const TASKS: usize = 200;
/// The exit code of z4t for "unavailable or timeout".
const UNAVAILABLE: i32 = 6;
const QUEUE: &str = "walk";

/// Walks through `fleet`, none of whose hosts is in a cluster yet.
///
/// # Errors
/// The first thing that is not as it should be.
pub(crate) fn run(fleet: &mut impl Fleet) -> Result<()> {
    let count = fleet.len();
    for at in 0..count {
        fleet.start(at)?;
    }
    fleet.wait("the first host serves", PATIENCE, |fleet| fleet.is_placed(0, 1))?;
    ensure!(fleet.members(0)? == 1, "info shows one member");
    step("info shows one member");
    for at in 1..count {
        let (id, address) = (fleet.id(at), fleet.peer(at));
        let said = fleet.ask(0, &["-p", &address, "-id", &id, "add-peer"])?;
        ensure!(said.trim() == "peer added", "add-peer says {said:?}");
        step(&format!("-p {address} -id {id} add-peer: {}", said.trim()));
    }
    for at in 0..count {
        fleet.wait("info shows all members", PATIENCE, |fleet| Ok(fleet.members(at)? == count))?;
    }
    step(&format!("info shows {count} members on every host"));
    let voters = count.min(3);
    let begin = Instant::now();
    fleet.wait("every shard has its voters", PATIENCE, |fleet| fleet.is_placed(0, voters))?;
    fleet.wait("all replicas hold the same state", PATIENCE, |fleet| fleet.is_equal(0))?;
    step(&format!(
        "every shard has {voters} voters of equal state, {} ms later",
        begin.elapsed().as_millis()
    ));

    let mut ids = BTreeSet::new();
    push(fleet, 0, &mut ids)?;
    let lost = lost(count);
    for at in 0..lost {
        fleet.stop(at)?;
        step(&format!("{} is stopped", fleet.id(at)));
    }
    for at in lost..count {
        push(fleet, at, &mut ids)?;
    }
    if count > 3 {
        a_majority_is_lost(fleet, lost)?;
    }
    for at in 0..lost {
        fleet.start(at)?;
        let id = fleet.id(at);
        let follows = |fleet: &_| {
            let shards = Ask::shards(fleet, at)?;
            let led = shards.iter().filter(|shard| shard["leader"].as_str() == Some(&id)).count();
            Ok(!shards.is_empty() && led < shards.len())
        };
        fleet.wait("it is back and follows", PATIENCE, follows)?;
        step(&format!("{id} is back and follows"));
    }
    for at in 0..count {
        push(fleet, at, &mut ids)?;
    }
    fleet.wait("all replicas hold the same state", PATIENCE, |fleet| fleet.is_equal(0))?;
    step("shard verify: all replicas hold the same state");

    let expected = ids.len();
    let limit = expected.to_string();
    let lines = fleet.ask(count - 1, &["-q", QUEUE, "consume", "--count", &limit, "--idle", "20s"])?;
    let consumed: Vec<String> = lines.lines().map(id_of).collect();
    let distinct: BTreeSet<String> = consumed.iter().cloned().collect();
    ensure!(
        consumed.len() == expected && distinct == ids,
        "{} tasks came out, {} different ones, of {expected} that were pushed",
        consumed.len(),
        distinct.len()
    );
    let more = fleet.ask(0, &["-q", QUEUE, "consume", "--idle", "2s"])?;
    ensure!(more.is_empty(), "tasks came twice: {more}");
    step(&format!("{expected} tasks pushed, {expected} consumed, none twice"));
    Ok(())
}

/// Returns how many hosts a cluster of `count` can lose.
fn lost(count: usize) -> usize {
    (count - 1) / 2
}

fn step(text: &str) {
    println!("  {text}");
}

fn id_of(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    line["id"].as_str().unwrap_or_default().to_owned()
}

fn push(fleet: &impl Fleet, at: usize, ids: &mut BTreeSet<String>) -> Result<()> {
    let count = TASKS.to_string();
    let begin = Instant::now();
    let said = fleet.ask(at, &["task", "push", QUEUE, "hello", "--repeat", &count])?;
    let before = ids.len();
    ids.extend(said.split_whitespace().map(str::to_owned));
    ensure!(ids.len() == before + TASKS, "a push of {TASKS} answers {} new ids", ids.len() - before);
    step(&format!("{TASKS} tasks pushed through {} in {} ms", fleet.id(at), begin.elapsed().as_millis()));
    Ok(())
}

/// With one host more gone there is no majority for some shard: writes fail in time, and none appears later.
fn a_majority_is_lost(fleet: &mut impl Fleet, lost: usize) -> Result<()> {
    // With three of five hosts gone, a shard on three of them may have one voter left, or be untouched.
    fleet.stop(lost)?;
    step(&format!("{} is stopped, too", fleet.id(lost)));
    let at = fleet.len() - 1;
    let mut failed = 0;
    for n in 0..8 {
        let queue = format!("refused-{n}");
        let begin = Instant::now();
        let output =
            fleet.tool().output(&fleet.service(at), &["--timeout", "4s", "task", "push", &queue, "x"])?;
        ensure!(begin.elapsed() < Duration::from_secs(15), "a push without a majority ends in time");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(UNAVAILABLE), "{}: {said}", output.status);
            failed += 1;
        }
    }
    step(&format!("of 8 pushes to 8 queues {failed} are refused as unavailable, within their deadline"));
    fleet.start(lost)?;
    fleet.wait("the majority is back", PATIENCE, |fleet| fleet.is_placed(at, 3))
}
