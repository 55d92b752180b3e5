//! The plan: where the replicas of every shard shall stand. One rule, run after every command.
//!
//! **Task shards** want as many voters as the replication says, or one on each active host while there are fewer:
//! two hosts have two voters. (That survives no loss, as one voter does not, but it holds everything twice, and the
//! third host makes it whole.) They are spread evenly: active hosts differ by at most one voter. The rule starts from
//! what is and changes as little as it can: a replica stays where it is unless its host must not hold it, its shard
//! has more than it needs, or an emptier host waits for it. In this order:
//!
//! 1. replicas on hosts that are not active leave;
//! 2. shards with too many voters let go of the one on the fullest host;
//! 3. shards with too few get one on the emptiest host, ties by host id;
//! 4. voters move from the fullest host to the emptiest until they differ by at most one, first those that were placed
//!    just now and hold nothing yet.
//!
//! A host that holds a leaving replica of a shard gets no other of that shard until it has left; the plan makes up for it
//! when it has, since that is a command too.
//!
//! **The registry** has a replica on every member, to route by. Active hosts give the voters, the replication's
//! number of them: those who are it stay, the oldest learner comes next, the newest voter goes first. All others,
//! and draining hosts, have learners. So has a removed host until its last replica of a task shard has left: it may
//! have slept through its removal, wake up as the leader of such a shard, and must learn then that it shall hand over.
//! Its replica of the registry leaves last.
//!
//! # Invariants
//! - A second run changes nothing.
//! # Caveats
//! - Every replica of shard 0 runs this rule on its own: to change the rule, give the commands new kinds, or two
//!   versions of z4 would place the same command in two ways.

use std::collections::VecDeque;

use z4_types::HostId;

use crate::registry::Registry;
use crate::shard::{Replica, Role, Shard};

/// Places the replicas of all shards. Says what shall be gone by [`Role::Leaving`].
pub(crate) fn place(registry: &mut Registry) {
    place_registry(registry);
    let hosts: Vec<HostId> = registry.active_hosts().map(|host| host.id.clone()).collect();
    let voters = hosts.len().min(registry.replication as usize);
    let mut plan = Plan::of(&registry.shards[1..], &hosts);
    plan.release(voters);
    plan.fill(voters);
    plan.level();
    for (at, mut spots) in (1..).zip(plan.shards) {
        spots.voters.sort_unstable();
        let wanted: Vec<&HostId> = spots.voters.iter().map(|host| &hosts[*host]).collect();
        for replica in &mut registry.shards[at].replicas {
            if !wanted.contains(&&replica.host) {
                replica.role = Role::Leaving;
            }
        }
        for host in wanted {
            if registry.shards[at].on(host).is_none() {
                let replica = Replica { id: registry.draw_replica(), host: host.clone(), role: Role::Voter };
                registry.shards[at].replicas.push(replica);
            }
        }
    }
}

fn place_registry(registry: &mut Registry) {
    let members: Vec<(HostId, bool)> =
        registry.members().map(|host| (host.id.clone(), host.is_active())).collect();
    let active = |host: &HostId| members.iter().any(|(id, active)| id == host && *active);
    let holds_tasks: Vec<HostId> = registry
        .hosts
        .iter()
        .map(|host| &host.id)
        .filter(|host| registry.holds_tasks(host))
        .cloned()
        .collect();
    let voters = members.iter().filter(|(_, active)| *active).count().min(registry.replication as usize);
    for replica in &mut registry.shards[0].replicas {
        if !members.iter().any(|(id, _)| *id == replica.host) {
            // One that began to leave is never wanted again.
            let stays = replica.is_wanted() && holds_tasks.contains(&replica.host);
            replica.role = if stays { Role::Learner } else { Role::Leaving };
        } else if replica.role == Role::Voter && !active(&replica.host) {
            replica.role = Role::Learner;
        }
    }
    for (host, _) in &members {
        if registry.shards[0].on(host).is_none() {
            let replica = Replica { id: registry.draw_replica(), host: host.clone(), role: Role::Learner };
            registry.shards[0].replicas.push(replica);
        }
    }
    let replicas = &mut registry.shards[0].replicas;
    let mut surplus = replicas.iter().filter(|replica| replica.role == Role::Voter).count();
    for replica in replicas.iter_mut().rev().filter(|replica| replica.role == Role::Voter) {
        if surplus > voters {
            replica.role = Role::Learner;
            surplus -= 1;
        }
    }
    let mut missing = voters - surplus;
    for replica in replicas.iter_mut().filter(|replica| replica.role == Role::Learner) {
        if missing > 0 && active(&replica.host) {
            replica.role = Role::Voter;
            missing -= 1;
        }
    }
}

/// Placement of the task shards in the making. A host is its position among the active ones, which is the order of ids.
struct Plan {
    /// Voters of each host.
    loads: Vec<usize>,
    shards: Vec<Spots>,
}

/// One shard.
struct Spots {
    /// Hosts that shall have a voter.
    voters: Vec<usize>,
    /// Hosts that have one.
    held: Vec<usize>,
    /// Hosts that still have a leaving replica.
    taken: Vec<usize>,
}

impl Spots {
    fn is_free(&self, host: usize) -> bool {
        !self.voters.contains(&host) && !self.taken.contains(&host)
    }
}

impl Plan {
    fn of(shards: &[Shard], hosts: &[HostId]) -> Self {
        let mut loads = vec![0; hosts.len()];
        let shards = shards
            .iter()
            .map(|shard| {
                let mut spots = Spots { voters: Vec::new(), held: Vec::new(), taken: Vec::new() };
                for replica in &shard.replicas {
                    match hosts.binary_search(&replica.host) {
                        Ok(host) if replica.is_wanted() => {
                            loads[host] += 1;
                            spots.voters.push(host);
                            spots.held.push(host);
                        }
                        Ok(host) => spots.taken.push(host),
                        Err(_) => {}
                    }
                }
                spots
            })
            .collect();
        Self { loads, shards }
    }

    fn release(&mut self, voters: usize) {
        for spots in &mut self.shards {
            while spots.voters.len() > voters {
                let loads = &self.loads;
                let fullest = (0..spots.voters.len())
                    .max_by_key(|at| (loads[spots.voters[*at]], spots.voters[*at]))
                    .expect("more than some");
                self.loads[spots.voters.swap_remove(fullest)] -= 1;
            }
        }
    }

    fn fill(&mut self, voters: usize) {
        for spots in &mut self.shards {
            while spots.voters.len() < voters {
                let free = (0..self.loads.len()).filter(|host| spots.is_free(*host));
                let Some(emptiest) = free.min_by_key(|host| (self.loads[*host], *host)) else { break };
                self.loads[emptiest] += 1;
                spots.voters.push(emptiest);
            }
        }
    }

    fn level(&mut self) {
        // Each round makes the loads more even (their squares' sum shrinks), so this ends.
        while let Some(moves) = self.moves_of_new().or_else(|| self.move_of_held().map(|one| vec![one])) {
            for (shard, from, to) in moves {
                let voters = &mut self.shards[shard].voters;
                *voters.iter_mut().find(|host| **host == from).expect("it stands there") = to;
                self.loads[from] -= 1;
                self.loads[to] += 1;
            }
        }
    }

    /// Hosts, the emptiest first.
    fn by_load(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.loads.len()).collect();
        order.sort_by_key(|host| (self.loads[*host], *host));
        order
    }

    /// Returns moves of voters that hold nothing yet, each from the host the one before went to, which together take
    /// one from a fuller host to an emptier: the shortest way, by breadth-first search.
    fn moves_of_new(&self) -> Option<Vec<(usize, usize, usize)>> {
        for start in self.by_load().into_iter().rev() {
            let mut reached: Vec<Option<(usize, usize)>> = vec![None; self.loads.len()];
            let mut next = VecDeque::from([start]);
            while let Some(from) = next.pop_front() {
                if self.loads[start] > self.loads[from] + 1 {
                    return Some(way(&reached, start, from));
                }
                let new = |spots: &&Spots| spots.voters.contains(&from) && !spots.held.contains(&from);
                for (shard, spots) in self.shards.iter().enumerate().filter(|(_, spots)| new(spots)) {
                    for to in (0..self.loads.len()).filter(|to| *to != start && spots.is_free(*to)) {
                        if reached[to].is_none() {
                            reached[to] = Some((shard, from));
                            next.push_back(to);
                        }
                    }
                }
            }
        }
        None
    }

    /// Returns a move of a voter that holds its shard's data, from a fuller host to an emptier.
    fn move_of_held(&self) -> Option<(usize, usize, usize)> {
        let order = self.by_load();
        for from in order.iter().rev() {
            for to in order.iter().take_while(|to| self.loads[*from] > self.loads[**to] + 1) {
                let moves = |spots: &Spots| spots.voters.contains(from) && spots.is_free(*to);
                if let Some(shard) = self.shards.iter().position(moves) {
                    return Some((shard, *from, *to));
                }
            }
        }
        None
    }
}

/// Returns the moves that lead from `start` to `end`, by how each host was reached: shard and host before.
fn way(reached: &[Option<(usize, usize)>], start: usize, end: usize) -> Vec<(usize, usize, usize)> {
    let (mut moves, mut to) = (Vec::new(), end);
    while to != start {
        let (shard, from) = reached[to].expect("every host on the way was reached");
        moves.push((shard, from, to));
        to = from;
    }
    moves
}
