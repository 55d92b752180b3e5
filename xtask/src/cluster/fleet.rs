//! The hosts of a run, whatever they run in.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::tool::Tool;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Hosts that can be started and stopped one by one.
pub(crate) trait Fleet {
    /// How many hosts there are.
    fn len(&self) -> usize;
    /// The name of a host.
    fn id(&self, at: usize) -> String;
    /// Its service address, as we reach it.
    fn service(&self, at: usize) -> String;
    /// Its peer address, as the other hosts reach it.
    fn peer(&self, at: usize) -> String;
    /// Starts it, if it does not run.
    fn start(&mut self, at: usize) -> Result<()>;
    /// Stops it as an operator does, and waits for its end.
    fn stop(&mut self, at: usize) -> Result<()>;
    /// The tool that talks to them.
    fn tool(&self) -> &Tool;
    /// The end of a host's log.
    fn explain(&self, at: usize) -> String;
}

/// What several runs ask of a fleet.
pub(crate) trait Ask: Fleet {
    /// Runs `z4t` against a host and returns what it prints.
    fn ask(&self, at: usize, arguments: &[&str]) -> Result<String> {
        self.tool().run(&self.service(at), arguments)
    }

    /// As `ask`, JSON.
    fn ask_json(&self, at: usize, arguments: &[&str]) -> Result<Value> {
        let text = self.ask(at, &[&["-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("z4t {arguments:?} prints no JSON: {text}"))
    }

    /// Returns the shards as a host knows them: id, leader, replicas.
    fn shards(&self, at: usize) -> Result<Vec<Value>> {
        let text = self.ask(at, &["-o", "json", "shard", "list"])?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
            .collect()
    }

    /// Waits until `done` says so; it may fail on the way.
    fn wait(&self, what: &str, within: Duration, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let begin = Instant::now();
        loop {
            let last = match done(self) {
                Ok(true) => return Ok(()),
                Ok(false) => "not yet".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            if begin.elapsed() > within {
                let logs: Vec<String> =
                    (0..self.len()).map(|at| format!("{}: {}", self.id(at), self.explain(at))).collect();
                bail!("{what}: {last}, after {within:?}\n{}", logs.join("\n"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Returns how many members the host at `at` knows.
    fn members(&self, at: usize) -> Result<usize> {
        Ok(self.ask_json(at, &["info"])?["members"].as_array().map_or(0, Vec::len))
    }

    /// Returns whether every shard has a leader and `voters` voters, as the host at `at` knows it.
    fn is_placed(&self, at: usize, voters: usize) -> Result<bool> {
        let shards = self.shards(at)?;
        let good = |shard: &Value| {
            let replicas = shard["replicas"].as_array().cloned().unwrap_or_default();
            let of_role = replicas.iter().filter(|replica| replica["role"].as_str() == Some("voter")).count();
            shard["leader"].as_str().is_some_and(|leader| !leader.is_empty()) && of_role == voters
        };
        Ok(!shards.is_empty() && shards.iter().all(good))
    }

    /// Returns whether the replicas of all shards are members of their groups and hold the same state.
    fn is_equal(&self, at: usize) -> Result<bool> {
        Ok(self.ask(at, &["shard", "verify"]).is_ok())
    }
}

impl<F: Fleet> Ask for F {}
