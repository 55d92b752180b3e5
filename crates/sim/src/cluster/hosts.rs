//! What becomes of hosts: they join, lose their disks, are removed and added again, stop when told to, and are cut
//! off from their clients.
//!
//! # Not here
//! - Which disk may be lost: `losses.rs`. How a host joins: `joining.rs`. Faults, which a host survives: `faults.rs`.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use z4_env::Rng;
use z4_registry::{Host, Registry};
use z4_types::ShardId;

use super::World;
use super::joining::Wish;
use super::node::{Directories, Node, Stop};
use super::swarm::{Turn, choose};
use crate::checks::Checked;

/// A host that stops tries for so long to hand over, nanoseconds: as `z4 server` does.
const HAND_OVER_NS: u64 = 1_500_000_000;

impl World {
    /// Lets something become of a host, now and then.
    pub(super) fn take_turn(&mut self) -> Checked {
        let turns = &self.swarm.turns;
        if turns.weights.is_empty() || !self.dice.chance(1, turns.every) {
            return Ok(());
        }
        let turn = choose(&mut self.dice, &turns.weights);
        match turn {
            Turn::Join => {
                if let Some(at) = self.one_of(|node| node.directories == Directories::Absent) {
                    self.note(format_args!("host {at} is switched on"));
                    self.begin_empty(at, "host joined");
                }
            }
            Turn::LoseDisk => self.lose_some_disk(false)?,
            Turn::Empty => self.lose_some_disk(true)?,
            Turn::Remove if self.is_loss_unnoticed() => {}
            Turn::Remove => {
                if let Some(at) = self.one_of(|node| node.directories != Directories::Absent) {
                    self.wish(at, Wish::Remove);
                }
            }
            Turn::Add => {
                let Some(registry) = self.newest_registry() else { return Ok(()) };
                let known = |node: &Node| registry.host(&node.name).cloned();
                // Of one that was removed before it was recorded only itself knows that these were its directories.
                let removed = |host: Host, node: &Node| !host.is_member() && host.instance == node.instance;
                let at = self.one_of(|node| known(node).is_some_and(|host| removed(host, node)));
                let at = at.or_else(|| {
                    self.one_of(|node| node.lives > 0 && known(node).is_some_and(|host| host.is_member()))
                });
                if let Some(at) = at {
                    self.wish(at, Wish::Add);
                }
            }
            Turn::Stop => {
                if let Some(at) = self.one_of(|node| node.is_up() && node.stop.is_none()) {
                    self.note(format_args!("host {at} is told to stop"));
                    let (until, led) = (self.now() + HAND_OVER_NS, self.leads_something(at));
                    self.nodes[at].stop = Some(Stop { until, led });
                }
            }
            Turn::CutOff => {
                if let Some(at) = self.one_of(Node::is_up) {
                    self.note(format_args!("clients do not reach host {at}"));
                    let ns = (1 + self.dice.below(self.swarm.trouble_ms)) * 1_000_000;
                    self.nodes[at].cut_off_until = self.now() + ns;
                    self.clients.cut_off(at);
                    self.lively.cut_off(at);
                    self.reached.reach("clients cut off from a host");
                }
            }
        }
        Ok(())
    }

    fn one_of(&mut self, fits: impl Fn(&Node) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = self.nodes.iter().filter(|node| fits(node)).map(|node| node.at).collect();
        let count = fitting.len() as u64;
        (count > 0).then(|| fitting[self.dice.below(count) as usize])
    }

    /// Takes the disk of a member, or of a host that was removed, if one can be missed.
    fn lose_some_disk(&mut self, removed: bool) -> Checked {
        let Some((leader, _)) = self.newest_leader(ShardId(0)) else { return Ok(()) };
        let registry = self.nodes[leader].registry().expect("it leads");
        let fits = |node: &Node| {
            let known = registry.host(&node.name);
            node.may_start() && node.lives > 0 && known.is_some_and(|known| known.is_member() != removed)
        };
        let fitting: Vec<usize> = self.nodes.iter().filter(|node| fits(node)).map(|node| node.at).collect();
        // The directories of a removed host, too: its replicas may not have left yet.
        let spared: Vec<usize> =
            fitting.into_iter().filter(|at| self.can_be_missed(*at, &registry)).collect();
        let Some(at) = self.one_of(|node| spared.contains(&node.at)) else { return Ok(()) };
        self.note(format_args!("the disk of host {at} is lost"));
        self.nodes[at].disk.crash();
        self.after(at, Ok(()))?;
        let (what, then) = if removed {
            ("removed host emptied", "removed host added again")
        } else {
            ("disk lost", "host with a lost disk replaced")
        };
        self.begin_empty(at, then);
        self.reached.reach(what);
        Ok(())
    }

    /// Takes a host that was told to stop one step further.
    pub(super) fn stop_on(&mut self, at: usize) -> Checked {
        let Some(Stop { until, led }) = self.nodes[at].stop else { return Ok(()) };
        let in_time = self.now() < until;
        let shell = self.nodes[at].shell.as_mut().expect("only a running host is told to stop");
        let left = shell.driver.hand_over();
        if left > 0 && in_time {
            return Ok(());
        }
        self.note(format_args!("host {at} stops; {left} groups could not be handed over"));
        let stopped = self.nodes[at].shell.as_mut().expect("looked at above").end();
        let clean = stopped.is_ok() && self.nodes[at].disk.is_up();
        self.after(at, stopped)?;
        if clean {
            self.reached.reach(if led && left == 0 { "stopped, all handed over" } else { "stopped" });
            self.nodes[at].disk.kill();
            self.bury(at);
        }
        Ok(())
    }

    /// Returns the hosts that run and do not belong to the cluster any more, as far as the newest registry says.
    pub(super) fn outsiders(&mut self) -> BTreeSet<usize> {
        let Some(registry) = self.newest_registry() else { return BTreeSet::new() };
        let belongs = |node: &Node| registry.host(&node.name).is_some_and(Host::is_member);
        self.nodes.iter().filter(|node| node.is_up() && !belongs(node)).map(|node| node.at).collect()
    }

    /// Returns the registry of whoever has applied most of its log.
    pub(super) fn newest_registry(&mut self) -> Option<Arc<Registry>> {
        let applied = |node: &mut Node| {
            let (groups, _) = node.groups();
            groups.iter().find(|group| group.shard == ShardId(0)).map(|group| (group.applied, node.at))
        };
        let (_, at) =
            self.nodes.iter_mut().filter_map(applied).max_by_key(|(index, at)| (*index, Reverse(*at)))?;
        self.nodes[at].registry()
    }
}
