//! What goes wrong in a cluster, one fault at a time, and what changes in it on purpose.

use z4_env::Rng;
use z4_registry::{Command, HostStatus};
use z4_types::ShardId;

use super::World;
use super::swarm::Fault;
use crate::checks::Checked;
use crate::faults;

/// Clocks run so much faster or slower at most, ppm.
const RATE_PPM_MAX: u64 = 200_000;

impl World {
    /// Lets one fault happen.
    pub(super) fn strike(&mut self, fault: Fault) -> Checked {
        self.note(format_args!("{fault:?}"));
        let count = self.nodes.len() as u64;
        match fault {
            Fault::Isolate => {
                let alone = self.some_node();
                if self.leads_something(alone) {
                    self.reached.reach("leader cut off");
                }
                let others = (0..self.nodes.len()).filter(|at| *at != alone).collect::<Vec<_>>();
                self.part(&[vec![alone], others]);
            }
            Fault::OneWay => {
                let deaf = self.some_node();
                let swap = self.rng.chance(1, 2);
                for at in (0..self.nodes.len()).filter(|at| *at != deaf) {
                    let (from, to) = if swap { (deaf, at) } else { (at, deaf) };
                    self.net.cut(&self.nodes[from].name, &self.nodes[to].name);
                }
                self.mend_later();
                self.reached.reach("one-way partition");
            }
            Fault::Split => {
                let halves = self.halves(None);
                self.part(&halves);
            }
            Fault::Bridge => {
                let bridge = self.rng.below(count) as usize;
                let halves = self.halves(Some(bridge));
                self.part(&halves);
                self.reached.reach("bridge partition");
            }
            Fault::Kill => {
                let at = self.some_node();
                self.nodes[at].disk.kill();
                self.after(at, Ok(()))?;
            }
            Fault::PowerLoss => {
                let at = self.some_node();
                self.lose_power(&[at])?;
            }
            Fault::PowerLossOfMany => {
                let chosen: Vec<usize> = (0..self.nodes.len()).filter(|_| self.rng.chance(1, 2)).collect();
                self.lose_power(&chosen)?;
            }
            Fault::PowerLossOfAll => {
                self.reached.reach("power loss of all hosts");
                let all: Vec<usize> = (0..self.nodes.len()).collect();
                self.lose_power(&all)?;
            }
            Fault::KillLeader => {
                if let Some(at) = self.some_leader() {
                    if self.rng.chance(1, 2) {
                        self.nodes[at].disk.kill();
                    } else {
                        self.nodes[at].disk.crash();
                    }
                    self.after(at, Ok(()))?;
                }
            }
            Fault::CrashSoon => {
                let at = self.some_node();
                faults::crash_soon(&self.nodes[at].disk, &mut self.rng);
            }
            Fault::Eio => {
                let at = self.some_node();
                faults::eio_soon(&self.nodes[at].disk, &mut self.rng);
            }
            Fault::FullDisk => {
                let at = self.some_node();
                let room = self.rng.below(2 * self.swarm.sizes.reserve_bytes);
                let full = self.rng.chance(2, 3);
                let disk = &self.nodes[at].disk;
                disk.set_capacity(full.then(|| disk.used_bytes() + room));
            }
            Fault::SlowDisk => {
                let at = self.some_node();
                self.nodes[at].slow_until = self.later();
                self.reached.reach("slow disk");
            }
            Fault::Pause => {
                let at = self.some_node();
                if self.leads_something(at) {
                    self.reached.reach("leader stood still");
                }
                self.nodes[at].paused_until = self.later();
            }
            Fault::WallJump => {
                let ms = self.rng.below(7_200_000).cast_signed() - 3_600_000;
                let at = self.some_node();
                self.nodes[at].clock.jump_wall_ms(ms);
                self.reached.reach("wall clock jumped");
            }
            Fault::ClockRate => {
                let at = self.some_node();
                let ppm = self.rng.below(2 * RATE_PPM_MAX).cast_signed() - RATE_PPM_MAX.cast_signed();
                self.nodes[at].rate_ppm = ppm;
                self.reached.reach("clock runs wrong");
            }
            Fault::HandOver => self.hand_over(),
            Fault::DrainHost => self.drain_host(),
            Fault::Replication => {
                let replication = [1, 3, 3, 5][self.rng.below(4) as usize];
                self.change(Command::SetReplication { replication });
            }
        }
        Ok(())
    }

    fn later(&mut self) -> u64 {
        self.now() + (1 + self.rng.below(self.swarm.trouble_ms)) * 1_000_000
    }

    /// Returns a host: now and then one that leads something.
    fn some_node(&mut self) -> usize {
        if self.rng.chance(1, 2)
            && let Some(at) = self.some_leader()
        {
            return at;
        }
        self.rng.below(self.nodes.len() as u64) as usize
    }

    fn some_leader(&mut self) -> Option<usize> {
        let shard = ShardId(self.rng.below(u64::from(self.swarm.sizes.task_shards) + 1) as u32);
        self.nodes.iter().find(|node| node.leads(shard)).map(|node| node.at)
    }

    pub(super) fn leads_something(&self, at: usize) -> bool {
        (0..=self.swarm.sizes.task_shards).any(|shard| self.nodes[at].leads(ShardId(shard)))
    }

    fn halves(&mut self, without: Option<usize>) -> [Vec<usize>; 2] {
        let mut halves = [Vec::new(), Vec::new()];
        for at in (0..self.nodes.len()).filter(|at| Some(*at) != without) {
            halves[self.rng.below(2) as usize].push(at);
        }
        halves
    }

    /// Cuts every link between two sides.
    fn part(&mut self, sides: &[Vec<usize>; 2]) {
        if sides.iter().any(Vec::is_empty) {
            return;
        }
        for from in &sides[0] {
            for to in &sides[1] {
                self.net.cut(&self.nodes[*from].name, &self.nodes[*to].name);
                self.net.cut(&self.nodes[*to].name, &self.nodes[*from].name);
            }
        }
        self.mend_later();
        self.reached.reach("partition");
    }

    fn mend_later(&mut self) {
        self.mend_at = self.later();
    }

    /// Cuts the power of these hosts at one instant.
    pub(super) fn lose_power(&mut self, which: &[usize]) -> Checked {
        for at in which {
            self.nodes[*at].disk.crash();
        }
        for at in which {
            self.after(*at, Ok(()))?;
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        let shard = ShardId(self.rng.below(u64::from(self.swarm.sizes.task_shards) + 1) as u32);
        let Some(at) = self.nodes.iter().position(|node| node.leads(shard)) else { return };
        let shell = self.nodes[at].shell.as_mut().expect("it leads");
        if self.rng.chance(1, 4) {
            shell.driver.hand_over();
            return;
        }
        let Some(members) = shell.driver.members(shard) else { return };
        let voters = members.membership.voters;
        if voters.is_empty() {
            return;
        }
        let to = voters[self.rng.below(voters.len() as u64) as usize];
        if shell.driver.transfer_leader(shard, to).is_ok() && to != members.replica {
            self.reached.reach("leadership handed over");
        }
    }

    fn drain_host(&mut self) {
        let at = self.rng.below(self.nodes.len() as u64) as usize;
        let Some(leader) = self.nodes.iter().position(|node| node.leads(ShardId(0))) else { return };
        let registry = self.nodes[leader].registry().expect("it leads");
        let host = self.nodes[at].name.clone();
        let draining = registry.host(&host).is_some_and(|host| host.status == HostStatus::Draining);
        self.change(if draining { Command::UndrainHost { host } } else { Command::DrainHost { host } });
    }

    /// Asks the registry's leader for a change; it may refuse.
    fn change(&mut self, command: Command) {
        if self.is_loss_unnoticed() {
            return;
        }
        if let Some(leader) = self.nodes.iter_mut().find(|node| node.leads(ShardId(0))) {
            let awaited = self.answers.awaited();
            leader.ask(command, Box::new(move |_| drop(awaited)));
        }
    }
}
