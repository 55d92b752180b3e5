//! The end of lively queues: everything that was set is taken back, dead tasks are redriven, and all is delivered and acked.
//!
//! # Not here
//! - Time, and hosts that get up and answer: the worlds. They call [`Lively::calm`] until nothing is left to do.

use std::collections::BTreeMap;

use z4_tasks::command::{Command, Pause, SetGroup, SetMode, SetQueue, Settlement, Target, Verdict};
use z4_tasks::{Fields, GroupFields, GroupPatch, GroupSettings, Patch, Policies, Settings};
use z4_types::{Duration, QueueName, ShardId, TaskId};

use super::clients::Scene;
use super::judge::Judge;
use super::judge::state::{self, Stand};
use super::{Hosts, Lively};
use crate::checks::{Checked, ensure};
use crate::report::Reached;

/// Credit that never binds.
const PLENTY: u32 = 10_000;
/// Dead tasks redriven by one call.
const REDRIVEN_MAX: usize = 20;

impl Lively {
    /// Disconnects everybody.
    pub fn close_all(&mut self, hosts: &mut dyn Hosts) {
        let Self { clients, twins, ledger, .. } = self;
        clients.close_all(&mut Scene { hosts, twins, ledger });
    }

    /// Returns how many tasks are not over, as far as is known.
    #[must_use]
    pub fn open(&self) -> usize {
        self.twins.values().flat_map(|twin| twin.judge.queues.values()).map(|queue| queue.open.len()).sum()
    }

    /// Returns what moves while anything comes of it: deliveries, settlements, tasks left.
    #[must_use]
    pub fn progress(&self) -> (u64, usize, usize) {
        let etags =
            self.twins.values().flat_map(|twin| twin.judge.tasks.values()).map(|task| task.etag).sum();
        (etags, self.open(), self.clients.held.len())
    }

    /// Returns what is left, in words.
    #[must_use]
    pub fn left(&self) -> String {
        let queues = self.twins.values().flat_map(|twin| &twin.judge.queues);
        let left = queues.filter(|(_, queue)| !queue.open.is_empty());
        left.map(|(name, queue)| format!("{} of {name}, {:?}; ", queue.open.len(), queue.pause)).collect()
    }

    /// Does one step towards the end: takes limits back first, then serves. Nothing may be under way.
    pub fn calm(&mut self, hosts: &mut dyn Hosts) {
        let Self { clients, twins, ledger, .. } = self;
        let scene = &mut Scene { hosts, twins, ledger };
        for (queue, shard) in clients.queues.clone() {
            let Some(twin) = twins.get(&shard) else { continue };
            for command in amends(&twin.judge, &queue) {
                clients.send(scene, shard, command);
            }
            if twin.judge.queues.contains_key(&queue) {
                clients.serve(scene, &queue, shard, PLENTY);
            }
        }
        let mut by_shard: BTreeMap<ShardId, Vec<Settlement>> = BTreeMap::new();
        for held in std::mem::take(&mut clients.held) {
            let ack = Settlement { id: held.id, token: held.token, verdict: Verdict::Ack };
            by_shard.entry(held.id.shard()).or_default().push(ack);
        }
        for (shard, acks) in by_shard {
            clients.send_settle(scene, shard, acks);
        }
    }

    /// Holds all that clients were told against the log, and counts what is left.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn end(&mut self, reached: &mut Reached) -> Checked {
        if !self.is_on() {
            return Ok(());
        }
        self.ledger.check(&self.twins)?;
        for twin in self.twins.values_mut() {
            twin.check()?;
            for (name, queue) in &twin.judge.queues {
                let left = queue.open.len();
                ensure!(left == 0, "LIVE", "queue {name} was drained, and {left} tasks are left");
            }
        }
        reached.reach("lively queues drained");
        Ok(())
    }
}

/// Returns what takes back whatever keeps tasks of a queue from being delivered.
fn amends(judge: &Judge, name: &QueueName) -> Vec<Command> {
    let mut commands = Vec::new();
    if !judge.policies.list.is_empty() {
        let version = judge.policies.version + 1;
        commands.push(Command::SetPolicies(Policies { version, list: BTreeMap::new() }));
    }
    let Some(queue) = judge.queues.get(name) else { return commands };
    if queue.settings != Settings::default() {
        let patch = Patch { set: Settings::default(), clear: Fields::ALL };
        let set = SetQueue { queue: name.clone(), mode: SetMode::Update, etag: None, patch };
        commands.push(Command::SetQueue(Box::new(set)));
    }
    if queue.pause != state::Pause::No {
        let (note, author) = ("the end".to_owned(), String::new());
        commands.push(Command::Pause(Pause { queue: name.clone(), paused: false, note, author }));
    }
    for (group, set) in &queue.groups {
        if *set != GroupSettings::default() {
            let patch = GroupPatch { set: GroupSettings::default(), clear: GroupFields::ALL };
            commands.push(Command::SetGroup(SetGroup { queue: name.clone(), group: group.clone(), patch }));
        }
    }
    let is_dead = |id: &&TaskId| judge.tasks[*id].stand == Stand::Dead;
    let dead = queue.open.iter().filter(is_dead).take(REDRIVEN_MAX);
    let dead: Vec<_> = dead.map(|id| (Target::id(*id, None), Duration(0))).collect();
    if !dead.is_empty() {
        commands.push(Command::Redrive(dead));
    }
    commands
}
