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
/// Pushes without a majority, each to a queue of its own.
const PUSHES_REFUSED: usize = 5;
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
    let begin = Instant::now();
    fleet.wait("every shard has its voters", PATIENCE, |fleet| fleet.is_placed(0, count))?;
    fleet.wait("all replicas hold the same state", PATIENCE, |fleet| fleet.is_equal(0))?;
    step(&format!("every shard has {count} voters of equal state, {} ms later", begin.elapsed().as_millis()));

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

/// With one host more gone there is no majority: writes fail in time, and none of them appears later.
fn a_majority_is_lost(fleet: &mut impl Fleet, lost: usize) -> Result<()> {
    fleet.stop(lost)?;
    step(&format!("{} is stopped, too: no majority is left", fleet.id(lost)));
    let at = fleet.len() - 1;
    let mut unknown = Vec::new();
    for n in 0..PUSHES_REFUSED {
        let queue = format!("refused-{n}");
        let begin = Instant::now();
        let output =
            fleet.tool().output(&fleet.service(at), &["--timeout", "3s", "task", "push", &queue, "x"])?;
        let (took, said) = (begin.elapsed(), String::from_utf8_lossy(&output.stderr).into_owned());
        ensure!(took < Duration::from_secs(8), "a push without a majority ends in time, not after {took:?}");
        ensure!(
            output.status.code() == Some(UNAVAILABLE),
            "a push without a majority: {} {said}",
            output.status
        );
        if said.contains("OUTCOME_UNKNOWN") || said.contains("DEADLINE_EXCEEDED") {
            unknown.push(n);
        }
        step(&format!("a push is refused after {} ms: {}", took.as_millis(), said.trim()));
    }
    fleet.start(lost)?;
    fleet.wait("the majority is back", PATIENCE, |fleet| {
        Ok(fleet.members(at)? == fleet.len()
            && fleet
                .shards(at)?
                .iter()
                .all(|shard| shard["leader"].as_str().is_some_and(|leader| !leader.is_empty())))
    })?;
    for n in (0..PUSHES_REFUSED).filter(|n| !unknown.contains(n)) {
        let queue = format!("refused-{n}");
        let said = fleet.ask(at, &["-q", &queue, "consume", "--idle", "500ms"])?;
        ensure!(said.is_empty(), "a push that was refused appears later: {said}");
    }
    step(&format!(
        "{} is back; {} pushes were reported as unknown, of the other {} none appears",
        fleet.id(lost),
        unknown.len(),
        PUSHES_REFUSED - unknown.len()
    ));
    Ok(())
}
