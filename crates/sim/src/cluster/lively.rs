//! The lively queues of a cluster: their clients go to whoever says that it leads, and are cut off with the others.

use z4_env::{Clock, Rng, SeededRng};
use z4_host::{Permit, Write};
use z4_types::{Millis, ShardId};

use super::World;
use super::node::Node;
use crate::checks::{Checked, Violation, ensure};
use crate::lively::Hosts;

/// Rounds of the end without anything coming of them; their steps double, so this is years.
const IDLE_ROUNDS_MAX: u32 = 60;
/// First and longest leap of time, milliseconds.
const LEAP_MS: (u64, u64) = (500, 12 * 3_600_000);
/// Steps of a round, in which calls are answered and deliveries taken.
const ROUND_STEPS: u32 = 15;
/// One of them, nanoseconds.
const STEP_NS: u64 = 1_000_000;
/// Steps of a round after a leap: leaders may have to be found again.
const LEAP_STEPS: u32 = 30;

/// The hosts as clients reach them.
struct Reach<'a> {
    nodes: &'a mut [Node],
    now: u64,
}

impl Hosts for Reach<'_> {
    fn leader(&mut self, shard: ShardId, rng: &mut SeededRng) -> Option<usize> {
        let up = self.nodes.iter().filter(|node| node.is_up());
        let (leaders, others): (Vec<&Node>, Vec<&Node>) = up.partition(|node| node.leads(shard));
        // Several may say so. Now and then somebody asks the wrong one.
        let from =
            if leaders.is_empty() || !others.is_empty() && rng.chance(1, 20) { others } else { leaders };
        (!from.is_empty()).then(|| from[rng.below(from.len() as u64) as usize].at)
    }

    fn permit(&mut self, host: usize, bytes: usize, freeing: bool) -> Option<Permit> {
        let budget = &self.nodes[host].shell.as_ref()?.budget;
        if freeing { budget.take_freeing(bytes) } else { budget.take(bytes) }
    }

    fn write(&mut self, host: usize, shard: ShardId, write: Write) -> bool {
        let node = &mut self.nodes[host];
        let heard = self.now >= node.cut_off_until;
        match node.shell.as_mut().filter(|_| heard) {
            Some(shell) => shell.write(shard, write),
            None => return false,
        }
        true
    }

    fn wall(&self) -> Millis {
        self.nodes[0].clock.wall()
    }
}

impl World {
    /// Somebody may want something of lively queues.
    pub(super) fn act_lively(&mut self) {
        let Self { lively, nodes, time, .. } = self;
        lively.act(&mut Reach { nodes, now: time.monotonic_ns() });
    }

    /// Judges what the logs say, and reads the mail.
    pub(super) fn follow_lively(&mut self) -> Checked {
        self.lively.follow(&mut self.reached)?;
        let Self { lively, nodes, time, .. } = self;
        let now = time.monotonic_ns();
        for line in lively.listen(|host| now >= nodes[host].cut_off_until)? {
            self.note(format_args!("{line}"));
        }
        Ok(())
    }

    /// Compares a host's rows with those of machines that never restarted.
    pub(super) fn compare_lively(&mut self, at: usize) -> Checked {
        let Some(shell) = self.nodes[at].shell.as_mut() else { return Ok(()) };
        match self.lively.compare(&mut shell.driver) {
            Ok(seen) => seen,
            Err(_) if !self.nodes[at].disk.is_up() || self.nodes[at].has_errors() => Ok(()),
            Err(what) => Err(Violation::new("FAULT", format!("rows cannot be read for no reason: {what}"))),
        }
    }

    /// Disconnects the consumers of lively queues.
    pub(super) fn close_lively(&mut self) {
        let Self { lively, nodes, time, .. } = self;
        lively.close_all(&mut Reach { nodes, now: time.monotonic_ns() });
    }

    /// Takes everything back that keeps tasks from being delivered, and delivers them.
    pub(super) fn calm_lively(&mut self) -> Checked {
        if !self.lively.is_on() {
            return Ok(());
        }
        let (mut idle, mut leap) = (0, LEAP_MS.0);
        while idle < IDLE_ROUNDS_MAX {
            let before = self.lively.progress();
            let Self { lively, nodes, time, .. } = self;
            lively.calm(&mut Reach { nodes, now: time.monotonic_ns() });
            for _ in 0..ROUND_STEPS {
                self.moment(STEP_NS)?;
            }
            self.follow_lively()?;
            if self.lively.open() == 0 && self.lively.waiting() == 0 {
                return self.lively.end(&mut self.reached);
            }
            if self.lively.progress() == before {
                idle += 1;
                self.pass_time(leap * 1_000_000);
                leap = (leap * 2).min(LEAP_MS.1);
                for _ in 0..LEAP_STEPS {
                    self.moment(STEP_NS)?;
                }
            } else {
                (idle, leap) = (0, LEAP_MS.0);
            }
        }
        let left = self.lively.open();
        ensure!(false, "LIVE", "{left} tasks of lively queues are left: {}", self.lively.left());
        Ok(())
    }
}
