//! The end of a cluster's run: heal, converge, ask all again, drain, cut all power at once, converge, count.
//!
//! # Invariants
//! - Healed hosts agree on members, leaders, indexes and digests of every shard within [`CONVERGE_TICKS`] ticks.

use std::collections::BTreeSet;

use z4_types::ShardId;

use super::World;
use super::clients::Scene;
use super::node::{Directories, Node};
use crate::checks::{Checked, ensure};
use crate::disk::Faults as DiskFaults;
use crate::net::Links;

/// Ticks within which a healed cluster agrees: elections, membership changes one after the other, and snapshots that
/// were given up and begin again.
const CONVERGE_TICKS: u64 = 1_500;
/// Ticks for which hosts that were removed are let talk: some elections of theirs.
const OUTSIDERS_TICKS: u64 = 60;
/// Steps of a tick while it converges.
const STEPS_PER_TICK: u64 = 4;
/// Steps within which everything asked is answered.
const ANSWER_STEPS: u32 = 40_000;
/// One of them, nanoseconds.
const STEP_NS: u64 = 1_000_000;
/// Rounds of asking again.
const TRIES_MAX: u32 = 40;
/// Rounds of the drain; their steps double, so this is years.
const ROUNDS_MAX: u32 = 80;
/// First and longest step of time, milliseconds.
const LEAP_MS: (u64, u64) = (500, 12 * 3_600_000);
/// After so many milliseconds a host looks again whether deliveries were taken; a little more.
const OUTBOX_MS: u64 = 12;
/// Credit that never binds.
const PLENTY: u32 = 10_000;

impl World {
    pub(super) fn end(&mut self) -> Checked {
        self.heal();
        // Whoever can be asked for tasks all the time is never at rest.
        self.with_clients(super::Clients::close_all);
        self.close_lively();
        self.converge()?;
        self.converged_ms = self.now() / 1_000_000 - self.converged_ms;
        self.reached.reach("converged");
        self.bear_outsiders()?;
        self.ask_again()?;
        self.deliver_all()?;
        self.note(format_args!("last loss of power"));
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.consensus.exclude(BTreeSet::new());
        self.lose_power(&all)?;
        self.converge()?;
        self.bear_outsiders()?;
        self.ask_again()?;
        self.deliver_all()?;
        self.calm_lively()?;
        self.scan()?;
        for at in 0..self.nodes.len() {
            self.check_rows(at)?;
        }
        self.reached.reach("drained");
        Ok(())
    }

    fn heal(&mut self) {
        self.note(format_args!("heal"));
        self.healed = true;
        self.converged_ms = self.now() / 1_000_000;
        self.mend_at = 0;
        self.net.heal();
        self.net.set_links(Links::default());
        for node in &mut self.nodes {
            node.disk.set_faults(DiskFaults::default());
            node.disk.set_capacity(None);
            node.disk.disarm();
            node.rate_ppm = 0;
            (node.paused_until, node.slow_until, node.down_until) = (0, 0, 0);
            (node.ask_at, node.cut_off_until, node.stop) = (0, 0, None);
        }
        self.clients.hang_up(&mut self.history, |_| true);
    }

    pub(super) fn moment(&mut self, ns: u64) -> Checked {
        self.pass_time(ns);
        self.move_on()
    }

    /// Lets time pass until all agree.
    fn converge(&mut self) -> Checked {
        let step = self.swarm.sizes.tick_ms * 1_000_000 / STEPS_PER_TICK;
        let mut why = String::new();
        for _ in 0..CONVERGE_TICKS {
            for _ in 0..STEPS_PER_TICK {
                // The second half of a step is for what the first one has begun.
                self.moment(step - STEP_NS)?;
                self.moment(STEP_NS)?;
            }
            match self.differs() {
                Some(what) => why = what,
                None => return Ok(()),
            }
        }
        ensure!(false, "LIVE", "after {CONVERGE_TICKS} ticks without faults: {why}");
        Ok(())
    }

    /// Lets hosts that were removed talk on for a while: whatever they say, the others stay as they are, and no term
    /// begins with one of them (C10).
    fn bear_outsiders(&mut self) -> Checked {
        let outsiders = self.outsiders();
        if outsiders.is_empty() {
            return Ok(());
        }
        self.note(format_args!("{outsiders:?} were removed and talk on"));
        self.consensus.exclude(outsiders);
        for _ in 0..OUTSIDERS_TICKS * STEPS_PER_TICK {
            self.moment(self.swarm.sizes.tick_ms * 1_000_000 / STEPS_PER_TICK)?;
        }
        self.reached.reach("removed hosts talked on");
        self.converge()
    }

    /// Returns in what the hosts differ from what they shall be.
    fn differs(&mut self) -> Option<String> {
        if self.nodes.iter().any(|node| node.directories == Directories::Empty) {
            return Some("a host waits to join".into());
        }
        let there = |node: &&Node| node.directories != Directories::Absent;
        if self.nodes.iter().filter(there).any(|node| !node.is_up()) {
            return Some("a host is down".into());
        }
        let registry = self.newest_registry()?;
        let outsiders = self.outsiders();
        let inside = |node: &&mut Node| node.is_up() && !outsiders.contains(&node.at);
        for node in self.nodes.iter_mut().filter(inside) {
            if node.registry().is_none_or(|other| *other != *registry) {
                return Some("hosts know different registries".into());
            }
            let known = registry.host(&node.name).map_or(0, |host| host.instance);
            if known != 0 && known != node.instance {
                return Some(format!(
                    "host {} speaks from directories {:x}, {known:x} is known",
                    node.at, node.instance
                ));
            }
        }
        let groups: Vec<_> = self.nodes.iter_mut().filter(inside).map(|node| node.groups().0).collect();
        for shard in &registry.shards {
            let of_shard: Vec<_> = groups.iter().flatten().filter(|group| group.shard == shard.id).collect();
            let ids: BTreeSet<u64> = of_shard.iter().map(|group| group.replica).collect();
            let wanted: BTreeSet<u64> = shard.replicas.iter().map(|replica| replica.id).collect();
            if ids != wanted || of_shard.len() != wanted.len() {
                return Some(format!("shard {}: replicas {ids:?} live, {wanted:?} are wanted", shard.id));
            }
            let voters: BTreeSet<u64> = shard.voters().map(|replica| replica.id).collect();
            let leaders = of_shard.iter().filter(|group| group.leading).count();
            if leaders != 1 {
                return Some(format!("shard {} has {leaders} leaders", shard.id));
            }
            let last = of_shard[0].last;
            for group in &of_shard {
                let actual: BTreeSet<u64> = group.membership.voters.iter().copied().collect();
                if group.membership.is_joint() || actual != voters {
                    return Some(format!(
                        "shard {}: members {:?}, voters {voters:?} are wanted",
                        shard.id, group.membership
                    ));
                }
                if (group.applied, group.commit, group.last) != (last, last, last)
                    || group.digest != of_shard[0].digest
                {
                    return Some(format!(
                        "shard {}: replica {} has applied {}, committed {} of {}, digest {:016x}; the first one has {last}, \
                         {:016x}",
                        shard.id,
                        group.replica,
                        group.applied,
                        group.commit,
                        group.last,
                        group.digest,
                        of_shard[0].digest
                    ));
                }
            }
        }
        None
    }

    fn with_clients(&mut self, act: impl FnOnce(&mut super::Clients, &mut Scene<'_>)) {
        let Self { clients, nodes, history, reached, time, .. } = self;
        let now = z4_env::Clock::monotonic_ns(time);
        act(clients, &mut Scene { nodes, history, reached, now });
    }

    /// Waits until every call is answered.
    fn answered_all(&mut self) -> Checked {
        for _ in 0..ANSWER_STEPS {
            if self.clients.waiting.is_empty() {
                return Ok(());
            }
            self.moment(STEP_NS)?;
        }
        let left: Vec<_> = self.clients.waiting.values().map(|w| (w.shard, w.node, w.since)).collect();
        ensure!(false, "LIVE", "calls to healed hosts are not answered: {left:?}");
        Ok(())
    }

    /// Creates of unknown outcome are sent until they are answered.
    fn ask_again(&mut self) -> Checked {
        for _ in 0..TRIES_MAX {
            self.answered_all()?;
            if self.clients.unfinished.is_empty() {
                return Ok(());
            }
            // A full working set, and a checkpoint that failed before, may need a moment.
            self.moment(self.swarm.sizes.tick_ms * 1_000_000)?;
            for _ in 0..self.clients.unfinished.len() {
                self.with_clients(super::Clients::retry);
                self.answered_all()?;
            }
        }
        ensure!(false, "LIVE", "{} creates are still refused", self.clients.unfinished.len());
        Ok(())
    }

    fn deliver_all(&mut self) -> Checked {
        let mut leap = LEAP_MS.0;
        for _ in 0..ROUNDS_MAX {
            self.open_all();
            self.ack_everything()?;
            if self.count()? == 0 {
                return Ok(());
            }
            self.pass_time(leap * 1_000_000);
            leap = (leap * 2).min(LEAP_MS.1);
            for _ in 0..30 {
                self.moment(STEP_NS)?;
            }
        }
        ensure!(false, "LIVE", "after {ROUNDS_MAX} rounds there is still something: {:?}", self.counted);
        Ok(())
    }

    /// Gives each queue a consumer at its leader, with room for everything.
    fn open_all(&mut self) {
        self.with_clients(|clients, scene| {
            for queue in 0..clients.queues.len() {
                let shard = clients.queues[queue].1;
                let at_leader = clients.consumers.iter().find(|(_, consumer)| {
                    consumer.queue == queue && consumer.is_alive() && scene.nodes[consumer.node].leads(shard)
                });
                let id = at_leader.map(|(id, _)| *id).or_else(|| clients.open(scene, queue));
                if let Some(id) = id {
                    clients.give_credit(scene, id, PLENTY);
                }
            }
        });
    }

    fn ack_everything(&mut self) -> Checked {
        // A tiny outbox takes one task at a time.
        for _ in 0..u64::from(TRIES_MAX) + self.clients.wanted() {
            // Leasing may wait for what is on its way to be taken.
            for _ in 0..OUTBOX_MS {
                self.moment(STEP_NS)?;
            }
            if self.clients.held.is_empty() {
                return Ok(());
            }
            self.open_all();
            self.with_clients(super::Clients::ack_all);
            self.answered_all()?;
        }
        ensure!(false, "LIVE", "the same tasks come again and again: {} are held", self.clients.held.len());
        Ok(())
    }

    fn task_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (1..=self.swarm.sizes.task_shards).map(ShardId)
    }

    /// Asks for all counters; returns how many tasks wait or are leased.
    fn count(&mut self) -> Result<u64, super::Violation> {
        for _ in 0..TRIES_MAX {
            self.counted.clear();
            for shard in self.task_shards() {
                self.with_clients(|clients, scene| clients.count(scene, shard));
            }
            self.answered_all()?;
            if self.counted.len() == self.swarm.sizes.task_shards as usize {
                break;
            }
            self.moment(STEP_NS)?;
        }
        ensure!(
            self.counted.len() == self.swarm.sizes.task_shards as usize,
            "LIVE",
            "counters are read of {} shards only",
            self.counted.len()
        );
        Ok(self.counted.values().map(|stats| stats.waiting + stats.leased).sum())
    }

    /// Everything that is left is listed, and everything that ever was is counted.
    fn scan(&mut self) -> Checked {
        self.scanning = true;
        for queue in 0..self.clients.queues.len() {
            self.until_told(|clients, scene| clients.list(scene, queue))?;
        }
        // Counters are of shards that hold queues; others have none.
        let shards: BTreeSet<ShardId> = self.clients.queues.iter().map(|(_, shard)| *shard).collect();
        for shard in shards {
            self.until_told(|clients, scene| clients.count(scene, shard))?;
        }
        Ok(())
    }

    /// Asks until it is answered by a host that leads.
    fn until_told(&mut self, mut ask: impl FnMut(&mut super::Clients, &mut Scene<'_>)) -> Checked {
        let before = self.scanned;
        for _ in 0..TRIES_MAX {
            self.with_clients(&mut ask);
            self.answered_all()?;
            if self.scanned > before {
                return Ok(());
            }
            self.moment(STEP_NS)?;
        }
        ensure!(false, "LIVE", "a healed cluster does not answer a read");
        Ok(())
    }
}
