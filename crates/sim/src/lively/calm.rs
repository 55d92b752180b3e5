//! The end of lively queues: everything that was set is taken back, dead tasks are redriven, schedules are paused once the slots
//! they wait for have come, all is delivered and acked, and the empty queues are deleted if they can be.
//!
//! # Not here
//! - Time, and hosts that get up and answer: the worlds. They call [`Lively::calm`] until nothing is left to do.

use std::collections::BTreeMap;

use z4_tasks::command::{
    Command, Pause, PauseSchedule, SetGroup, SetMode, SetQueue, Settlement, Target, Verdict,
};
use z4_tasks::{Fields, GroupFields, GroupPatch, GroupSettings, Patch, Policies, Settings};
use z4_types::{Duration, Millis, QueueName, ShardId, TaskId};

use super::clients::Scene;
use super::judge::Judge;
use super::judge::schedules::Scheduled;
use super::judge::state::{self, Queue, Stand};
use super::twin::Twin;
use super::{Hosts, Lively};
use crate::checks::{Checked, ensure};
use crate::report::Reached;

/// Credit that never binds.
const PLENTY: u32 = 10_000;
/// Dead tasks redriven by one call.
const REDRIVEN_MAX: usize = 20;

/// Slots that must come before schedules are paused, by queue and name.
pub(super) type Owed = BTreeMap<(QueueName, String), Millis>;

impl Lively {
    /// Disconnects everybody.
    pub fn close_all(&mut self, hosts: &mut dyn Hosts) {
        let Self { clients, twins, ledger, .. } = self;
        clients.close_all(&mut Scene { hosts, twins, ledger });
    }

    /// Returns how many tasks are not over, and schedules that wait for a slot, as far as is known.
    #[must_use]
    pub fn open(&self) -> usize {
        let queues = self.twins.values().flat_map(|twin| twin.judge.queues.values());
        let awake = |queue: &Queue| queue.schedules.values().filter(|one| is_awake(one)).count();
        queues.map(|queue| queue.open.len() + awake(queue)).sum()
    }

    /// Returns what moves while anything comes of it: deliveries, settlements, tasks left.
    #[must_use]
    pub fn progress(&self) -> (u64, usize, usize) {
        let etags =
            self.twins.values().flat_map(|twin| twin.judge.tasks.values()).map(|task| task.etag).sum::<u64>();
        let queues = self.twins.values().flat_map(|twin| twin.judge.queues.values());
        let schedules = queues.flat_map(|queue| queue.schedules.values());
        let slots: u64 = schedules.map(|one| one.info.etag + one.rows).sum();
        (etags + slots, self.open(), self.clients.held.len())
    }

    /// Returns what is left, in words.
    #[must_use]
    pub fn left(&self) -> String {
        let queues = self.twins.values().flat_map(|twin| &twin.judge.queues);
        let said = queues.map(|(name, queue)| {
            let awake = queue.schedules.values().filter(|one| is_awake(one));
            let slots: Vec<_> = awake.map(|one| (&one.info.name, one.info.next, one.info.buffered)).collect();
            format!("{} of {name}, {:?}, slots {slots:?}; ", queue.open.len(), queue.pause)
        });
        said.collect()
    }

    /// Does one step towards the end: takes limits back first, then serves. Nothing may be under way.
    pub fn calm(&mut self, hosts: &mut dyn Hosts) {
        let Self { clients, twins, ledger, owed, left, .. } = self;
        let scene = &mut Scene { hosts, twins, ledger };
        let owed = owed.get_or_insert_with(|| owed_slots(twins));
        for (queue, shard) in clients.queues.clone() {
            let Some(twin) = twins.get(&shard) else { continue };
            for command in amends(&twin.judge, &queue, owed) {
                clients.send(scene, shard, command);
            }
            let Some(known) = twin.judge.queues.get(&queue) else { continue };
            if !known.open.is_empty() {
                clients.serve(scene, &queue, shard, PLENTY);
            } else if !known.schedules.values().any(is_awake) && !left.contains(&queue) {
                // Once: it may have schedules still, or keep finished tasks.
                let delete = Command::DeleteQueue { queue: queue.clone(), etag: None };
                if clients.send(scene, shard, delete) {
                    left.insert(queue);
                }
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

/// Returns whether a schedule has slots to come.
fn is_awake(one: &Scheduled) -> bool {
    one.info.next.is_some() || one.info.buffered.is_some()
}

/// Returns the slots that schedules wait for.
fn owed_slots(twins: &BTreeMap<ShardId, Twin>) -> Owed {
    let queues = twins.values().flat_map(|twin| &twin.judge.queues);
    let schedules = queues.flat_map(|(queue, known)| known.schedules.iter().map(move |one| (queue, one)));
    schedules
        .filter_map(|(queue, (name, one))| Some(((queue.clone(), name.clone()), one.info.next?)))
        .collect()
}

/// Returns what takes back whatever keeps tasks of a queue from being delivered.
fn amends(judge: &Judge, name: &QueueName, owed: &Owed) -> Vec<Command> {
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
    for (schedule, one) in &queue.schedules {
        let slot = owed.get(&(name.clone(), schedule.clone()));
        // What it waited for when all was well again must have come by itself.
        if is_awake(one) && slot.is_none_or(|slot| one.passed >= *slot) {
            commands.push(Command::PauseSchedule(PauseSchedule {
                queue: name.clone(),
                name: schedule.clone(),
                etag: None,
                paused: true,
                note: "the end".to_owned(),
                author: String::new(),
                next: None,
            }));
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
