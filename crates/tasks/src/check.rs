//! The invariants of a shard's rows, checked one by one.
//!
//! Walks every row and compares them with each other, with the counters and with the machine's memory. O(tasks): for the
//! simulator, which runs it after applies, for tests, and for an operator who doubts a replica.

macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}

mod after;
mod events;
mod groups;
mod schedules;

use std::collections::{BTreeMap, BTreeSet};

use z4_types::{Millis, TaskId};

use crate::head::{First, Head, Point};
use crate::keys::{Holder, read_end};
use crate::machine::Machine;
use crate::queue::Queue;
use crate::retention::Finished;
use crate::rows::{
    Config, Member, Meta, Phase, QueueRecord, Remembered, Scheduled, State, key, read_body, read_policies,
};
use crate::settings::Policies;
use crate::stats::QueueStats;
use crate::steps::step_of;
use crate::{Fault, Read};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows(store: &dyn Read, letter: u8) -> Result<Rows, Fault> {
    let mut rows = Vec::new();
    store.scan(&[letter], &[letter + 1], &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        true
    })?;
    Ok(rows)
}

impl Machine {
    /// Checks every invariant of the rows, and that memory agrees with them.
    ///
    /// # Errors
    /// With what does not hold, in words.
    pub fn check(&self, store: &dyn Read) -> Result<(), String> {
        let read = |letter| rows(store, letter).map_err(|fault| fault.what);
        let text = |malformed: crate::codec::Malformed| Fault::from(malformed).what;

        let (bodies, states) = (read(b'B')?, read(b'T')?);
        let (scheduled, leased, dead) = (read(b'S')?, read(b'L')?, read(b'D')?);
        let mut ttls: BTreeSet<Vec<u8>> = read(b'X')?.into_iter().map(|(key, _)| key).collect();
        check_head("ttl", self.ttls.get(), ttls.first(), |key| {
            key::read_ttl(key).map(|(at, id)| (at.0, id.0))
        })?;
        check_head("lease", self.leases.get(), leased.first().map(|(key, _)| key), |key| {
            key::read_lease(key).map(|(until, token)| (until.0, token.0.into()))
        })?;

        let mut state_rows = BTreeMap::new();
        for (key, value) in &states {
            let id = key::read_id(key).map_err(text)?;
            state_rows.insert(id, State::read(value).map_err(text)?.0);
        }
        let mut counted = vec![QueueStats::default(); self.queues.len()];
        let mut lines: BTreeMap<(u32, u8), u64> = BTreeMap::new();
        let mut due: BTreeMap<u32, BTreeMap<u64, u64>> = BTreeMap::new();
        let mut finished: BTreeMap<_, _> = read(b'H')?.into_iter().collect();
        let mut results: BTreeMap<_, _> = read(b'R')?.into_iter().collect();
        let mut tokens = BTreeSet::new();
        let mut counters = BTreeSet::new();
        let (mut in_schedule, mut in_leases, mut in_dead) = (0, 0, 0);
        let scheduled: BTreeMap<_, _> = scheduled.into_iter().collect();
        let leased: BTreeMap<_, _> = leased.into_iter().collect();
        let dead: BTreeMap<_, _> = dead.into_iter().collect();
        let (mut keys, key_ends) = (read(b'K')?.into_iter().collect::<BTreeMap<_, _>>(), read(b'Z')?);

        let mut edges = after::Seen::read(store).map_err(|fault| fault.what)?;
        let mut groups = groups::Seen::read(store).map_err(|fault| fault.what)?;
        for (key, value) in &bodies {
            let id = key::read_id(key).map_err(text)?;
            let (queue, item) = read_body(value).map_err(text)?;
            ensure!(counters.insert(id.counter()), "counter {} is used twice", id.counter());
            ensure!(id.counter() < self.meta.next_counter, "task {id} has a counter not given out yet");
            ensure!(id.created_at() <= self.meta.now, "task {id} was created in the future");
            ensure!(id.shard() == self.shard, "task {id} is of shard {}", id.shard());
            let row = state_rows.remove(&id);
            let state = row.unwrap_or_else(|| State::pristine(id, queue, &item));
            let record = self.queue(queue).map_err(|fault| fault.what)?;
            ensure!(
                state.queue == queue,
                "task {id} is in queue {} by its state, {queue} by its body",
                state.queue
            );
            ensure!(state.priority == item.priority.unwrap_or_default().0, "task {id} changed its priority");
            ensure!(state.has_key == item.key.is_some(), "task {id} does not know whether it has a key");
            if let Some(asked) = item.key.filter(|_| !state.phase.is_finished()) {
                let row = keys.remove(&key::task_key(queue, asked.name));
                let row = row.ok_or_else(|| format!("open task {id} does not hold its key"))?;
                let expected = Holder { id, until: Millis(0) };
                ensure!(Holder::read(&row).map_err(text)? == expected, "another has the key of task {id}");
            }
            ensure!(state.payload_bytes == item.payload_bytes(), "task {id} has a wrong payload length");
            ensure!(
                row.is_some() || (state.deliveries == 0 && state.phase == Phase::Waiting),
                "task {id} was delivered or has ended, and has no state row"
            );
            ensure!(row.is_some() == (state.revision > 0), "task {id} has revision {}", state.revision);
            ensure!(
                (state.token.0 > 0) == (state.deliveries > 0),
                "task {id} was delivered {} times, under token {}",
                state.deliveries,
                state.token
            );
            ensure!(state.token.0 < self.meta.next_token, "task {id} has a token not given out yet");
            ensure!(state.token.0 == 0 || tokens.insert(state.token), "token {} is used twice", state.token);
            ensure!(state.failures <= state.deliveries, "task {id} failed more often than it was delivered");
            groups.task(self, id, &item, &state, row.is_some())?;
            edges.open.insert(id, (queue, !state.phase.is_finished() && state.phase != Phase::Dead));
            ensure!(
                state.phase == Phase::Blocked || state.blockers == 0,
                "task {id} waits for {} others, and is {:?}",
                state.blockers,
                state.phase
            );
            let stats = &mut counted[queue as usize];
            match state.phase {
                Phase::Waiting if state.member != Member::None => {
                    stats.waiting += 1;
                    *due.entry(queue).or_default().entry(step_of(state.deliver_at)).or_default() += 1;
                }
                Phase::Waiting => {
                    stats.waiting += 1;
                    in_schedule += 1;
                    *lines.entry((queue, state.priority)).or_default() += 1;
                    *due.entry(queue).or_default().entry(step_of(state.deliver_at)).or_default() += 1;
                    let value =
                        scheduled.get(key::schedule(queue, state.priority, state.deliver_at, id).as_slice());
                    let value = value.ok_or_else(|| format!("waiting task {id} is not in the schedule"))?;
                    let expected = Scheduled { has_state: row.is_some(), ..state.scheduled() };
                    let found = Scheduled::read(value).map_err(text)?;
                    ensure!(found == expected, "task {id} is scheduled as {found:?}, not {expected:?}");
                }
                Phase::Leased => {
                    stats.leased += 1;
                    in_leases += 1;
                    let value = leased.get(key::lease(state.at, state.token).as_slice());
                    let value = value.ok_or_else(|| format!("leased task {id} has no lease row"))?;
                    ensure!(value[..16] == id.0.to_le_bytes(), "the lease row of task {id} names another");
                    ensure!(
                        value[16..20] == queue.to_le_bytes(),
                        "the lease row of task {id} names another queue"
                    );
                    ensure!(
                        value[20..] == state.deliver_at.0.to_le_bytes(),
                        "the lease row of task {id} names another time"
                    );
                }
                Phase::Blocked => {
                    stats.blocked += 1;
                    edges.task(id, &item, &state)?;
                }
                Phase::Dead => {
                    stats.dead += 1;
                    in_dead += 1;
                    let key = key::dead(queue, state.deliver_at, id);
                    ensure!(dead.contains_key(key.as_slice()), "dead task {id} is not among the dead");
                    ensure!(state.ttl_at == Millis::NEVER, "dead task {id} still has a TTL");
                }
                Phase::Done | Phase::Cancelled | Phase::Expired => {
                    stats.finished += 1;
                    let row = finished.remove(key::finished(queue, state.at, id).as_slice());
                    let row =
                        row.ok_or_else(|| format!("{:?} task {id} has no finished row", state.phase))?;
                    let row = Finished::read(&row).map_err(text)?;
                    ensure!(row == Finished::of(&state), "finished task {id} is kept as {row:?}");
                    ensure!(state.ttl_at == Millis::NEVER, "finished task {id} still has a TTL");
                    ensure!(record.evict_at.get().is_some(), "queue {} never evicts task {id}", record.name);
                }
            }
            if let Some(bytes) = state.result_bytes {
                let result = results.remove(key::result(id).as_slice());
                ensure!(state.phase == Phase::Done, "task {id} has a result, and is {:?}", state.phase);
                ensure!(
                    result.is_some_and(|result| result.len() == 1 + bytes as usize),
                    "task {id} has a result of {bytes} bytes, its row has not"
                );
            }
            if state.ttl_at != Millis::NEVER {
                ensure!(ttls.remove(key::ttl(state.ttl_at, id).as_slice()), "task {id} has no TTL row");
            }
        }
        ensure!(
            state_rows.is_empty(),
            "state rows without a body: {:?}",
            state_rows.keys().collect::<Vec<&TaskId>>()
        );
        ensure!(ttls.is_empty(), "{} TTL rows without a task", ttls.len());
        ensure!(
            in_schedule == scheduled.len(),
            "{} schedule rows, {in_schedule} waiting tasks",
            scheduled.len()
        );
        ensure!(in_leases == leased.len(), "{} lease rows, {in_leases} leased tasks", leased.len());
        ensure!(in_dead == dead.len(), "{} dead rows, {in_dead} dead tasks", dead.len());
        ensure!(finished.is_empty(), "{} finished rows without a task", finished.len());
        ensure!(results.is_empty(), "{} results without a task", results.len());
        edges.check(self, &mut counted)?;
        self.check_queues(&counted, &lines, &read(b'Q')?, &read(b'N')?)?;
        self.check_settings(store)?;
        self.check_groups(store, &mut groups)?;
        self.check_evictions(store)?;
        self.check_events(store)?;
        self.check_schedules(store)?;
        for (number, _) in (0..).zip(&self.queues).filter(|(_, queue)| queue.is_some()) {
            let queue = self.queue(number).map_err(|fault| fault.what)?;
            queue.steps.check(store, number, &due.remove(&number).unwrap_or_default())?;
        }
        let steps = read(b'W')?;
        let orphan = steps.iter().find(|(key, _)| {
            let number = u32::from_be_bytes([key[1], key[2], key[3], key[4]]);
            self.queue(number).is_err()
        });
        ensure!(orphan.is_none(), "a step row of no queue: {orphan:?}");
        self.check_key_ends(&keys, &key_ends)?;
        self.check_lines(&scheduled)?;
        self.check_requests(&read(b'P')?, &read(b'E')?)?;
        let meta = store.get(&key::META).map_err(|fault| fault.what)?;
        let meta = meta.map_or(Ok(Meta::NEW), |value| Meta::read(&value)).map_err(text)?;
        ensure!(meta == self.meta, "the meta row is {meta:?}, memory has {:?}", self.meta);
        Ok(())
    }

    fn check_queues(
        &self,
        counted: &[QueueStats],
        lines: &BTreeMap<(u32, u8), u64>,
        records: &Rows,
        names: &Rows,
    ) -> Result<(), String> {
        let next = self.meta.next_queue as usize;
        ensure!(self.queues.len() == next, "{} queue numbers, {next} given out", self.queues.len());
        let queues = (0..).zip(&self.queues);
        let free: BTreeSet<u32> =
            queues.clone().filter(|(_, queue)| queue.is_none()).map(|(number, _)| number).collect();
        ensure!(free == self.free, "numbers {free:?} are free, not {:?}", self.free);
        let queues: Vec<(u32, &Queue)> =
            queues.filter_map(|(number, queue)| Some((number, queue.as_ref()?))).collect();
        ensure!(records.len() == queues.len(), "{} queue records, {} in memory", records.len(), queues.len());
        ensure!(names.len() == queues.len(), "{} names of {} queues", names.len(), queues.len());
        ensure!(self.names.len() == queues.len(), "{} names in memory", self.names.len());
        for (&(number, queue), (key, value)) in queues.iter().zip(records) {
            let name = &queue.name;
            ensure!(*key == key::queue(number), "queue {name} has another number on disk");
            let record = QueueRecord::read(value).map_err(|malformed| Fault::from(malformed).what)?;
            let expected =
                lines.range((number, 0)..=(number, u8::MAX)).map(|((_, priority), n)| (*priority, *n));
            let expected: Vec<(u8, u64)> = expected.collect();
            ensure!(record.name == *name, "queue {number} is {} on disk, {name} in memory", record.name);
            ensure!(
                record.stats == queue.stats,
                "queue {name}: {:?} on disk, {:?} in memory",
                record.stats,
                queue.stats
            );
            // A record of version 1 is not counted by due time until it is written again.
            ensure!(
                record.counted.is_none_or(|counted| counted == queue.steps.counted),
                "queue {name}: {:?} on disk, {:?} in memory",
                record.counted,
                queue.steps.counted
            );
            ensure!(
                queue.steps.counted.step <= step_of(self.meta.now),
                "queue {name} is ahead of shard time"
            );
            ensure!(
                record.grouped == queue.grouped && record.served == queue.served,
                "queue {name}: {:?} {:?} on disk, {:?} {:?} in memory",
                record.grouped,
                record.served,
                queue.grouped,
                queue.served
            );
            ensure!(
                record.lines == expected,
                "queue {name}: lines {:?} on disk, {expected:?} counted",
                record.lines
            );
            let (stats, counted) = (&queue.stats, &counted[number as usize]);
            ensure!(
                stats.waiting == counted.waiting,
                "queue {name}: waiting {}, counted {}",
                stats.waiting,
                counted.waiting
            );
            ensure!(
                stats.leased == counted.leased,
                "queue {name}: leased {}, counted {}",
                stats.leased,
                counted.leased
            );
            ensure!(
                stats.dead == counted.dead,
                "queue {name}: dead {}, counted {}",
                stats.dead,
                counted.dead
            );
            ensure!(
                stats.finished == counted.finished,
                "queue {name}: finished {}, counted {}",
                stats.finished,
                counted.finished
            );
            ensure!(
                (stats.blocked, stats.awaited) == (counted.blocked, counted.awaited),
                "queue {name}: blocked {}, awaited {}, counted {} and {}",
                stats.blocked,
                stats.awaited,
                counted.blocked,
                counted.awaited
            );
            let ends = stats.acked + stats.expired + stats.cancelled;
            let open = stats.waiting + stats.blocked + stats.leased + stats.dead;
            ensure!(
                stats.pushed == open + ends,
                "queue {name}: {} pushed, {open} open and {ends} ended",
                stats.pushed
            );
            ensure!(self.names.get(name.as_str()) == Some(&number), "queue {name} is not found by name");
            let row = names.iter().find(|(key, _)| *key == key::name(name.as_str()));
            ensure!(
                row.is_some_and(|(_, value)| *value == number.to_le_bytes()),
                "queue {name} has a wrong name row"
            );
        }
        Ok(())
    }

    fn check_settings(&self, store: &dyn Read) -> Result<(), String> {
        let text = |malformed: crate::codec::Malformed| Fault::from(malformed).what;
        let row = store.get(&key::POLICIES).map_err(|fault| fault.what)?;
        let policies =
            row.map_or_else(|| Ok(Policies::default()), |value| read_policies(&value)).map_err(text)?;
        ensure!(policies == self.policies, "policies differ between disk and memory");
        let mut configs: BTreeMap<_, _> =
            rows(store, b'C').map_err(|fault| fault.what)?.into_iter().collect();
        for (number, queue) in (0..).zip(&self.queues) {
            let Some(queue) = queue else { continue };
            let row = configs.remove(key::config(number).as_slice());
            let row = row.map(|value| Config::read(&value)).transpose().map_err(text)?;
            ensure!(
                row.as_ref() == queue.config.as_deref(),
                "queue {} has another config on disk",
                queue.name
            );
            let own = queue.config.as_ref().map(|config| &config.settings);
            let effective = self.policies.resolve(queue.name.as_str(), own);
            ensure!(effective == *queue.effective, "queue {} goes by settings of before", queue.name);
            ensure!(queue.limits == effective.limits(), "queue {} has limits of before", queue.name);
            ensure!(
                *queue.group_limits == effective.group_limits(),
                "groups of queue {} have limits of before",
                queue.name
            );
        }
        ensure!(configs.is_empty(), "{} configs of no queue", configs.len());
        Ok(())
    }

    fn check_evictions(&self, store: &dyn Read) -> Result<(), String> {
        let order = self.evictions.borrow();
        let mut listed = 0;
        for (number, queue) in (0..).zip(&self.queues) {
            let Some(queue) = queue else { continue };
            let kept = queue.stats.finished > 0;
            ensure!(kept == queue.evict_at.get().is_some(), "queue {} evicts, or keeps, nothing", queue.name);
            if let Some(at) = queue.evict_at.get() {
                ensure!(
                    order.contains(&(at, number)),
                    "queue {} is not in the order of evictions",
                    queue.name
                );
                listed += 1;
                let first = rows(store, b'H').map_err(|fault| fault.what)?.into_iter().map(|(key, _)| key);
                let first = first.filter(|key| key[1..5] == number.to_be_bytes()).min();
                check_head("finished", queue.finished.get(), first.as_ref(), |key| {
                    key::read_finished(key).map(|(at, id)| (at.0, id.0))
                })?;
                let over = queue.effective.retention.count.is_some_and(|count| queue.stats.finished > count);
                let exact = first.map(|key| key::read_finished(&key).map(|(at, _)| at));
                let exact = exact.transpose().map_err(|malformed| Fault::from(malformed).what)?;
                let exact = exact.map_or(Millis(0), |first| first + queue.effective.retention.age);
                ensure!(
                    at <= if over { Millis(0) } else { exact },
                    "queue {} evicts at {at}, that is too late",
                    queue.name
                );
            }
        }
        ensure!(order.len() == listed, "{} queues evict, {listed} keep finished tasks", order.len());
        Ok(())
    }

    /// `keys`: those that no open task has.
    fn check_key_ends(&self, keys: &BTreeMap<Vec<u8>, Vec<u8>>, ends: &Rows) -> Result<(), String> {
        let text = |malformed: crate::codec::Malformed| Fault::from(malformed).what;
        ensure!(keys.len() == ends.len(), "{} keys of ended tasks, {} ends", keys.len(), ends.len());
        for (key, value) in ends {
            let (until, id) = key::read_key_end(key).map_err(text)?;
            let (queue, name) = read_end(value).map_err(text)?;
            ensure!(self.queue(queue).is_ok(), "key {name} is of no queue");
            let row = keys.get(&key::task_key(queue, name));
            let row = row.ok_or_else(|| format!("key {name} ends at {until} and is not there"))?;
            let expected = Holder { id, until };
            ensure!(Holder::read(row).map_err(text)? == expected, "key {name} has another end");
        }
        check_head("key end", self.key_ends.get(), ends.first().map(|(key, _)| key), |key| {
            key::read_key_end(key).map(|(until, id)| (until.0, id.0))
        })
    }

    fn check_lines(&self, scheduled: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(), String> {
        for (number, queue) in (0..).zip(&self.queues) {
            for line in queue.iter().flat_map(|queue| &queue.lines) {
                let from = key::schedule(number, line.priority, Millis(0), TaskId(0)).to_vec();
                let to = key::schedule_end(number, line.priority).to_vec();
                let first = scheduled.range(from..to).next().map(|(key, _)| key);
                check_head("schedule", line.head.get(), first, |key| {
                    key::read_schedule(key).map(|(at, id)| (at.0, id.0))
                })?;
            }
        }
        Ok(())
    }

    fn check_requests(&self, requests: &Rows, evictions: &Rows) -> Result<(), String> {
        ensure!(
            requests.len() == evictions.len(),
            "{} requests, {} evictions",
            requests.len(),
            evictions.len()
        );
        let requests: BTreeMap<&[u8], &[u8]> =
            requests.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        for (key, _) in evictions {
            let (at, request, scope) =
                key::read_eviction(key).map_err(|malformed| Fault::from(malformed).what)?;
            let value = requests.get(key::request(scope, request).as_slice());
            let value =
                value.ok_or_else(|| format!("request {} is evicted at {at} but not there", request.0))?;
            let remembered = Remembered::read(value).map_err(|malformed| Fault::from(malformed).what)?;
            ensure!(
                remembered.at == at,
                "request {} was made at {}, evicted by {at}",
                request.0,
                remembered.at
            );
            ensure!(at <= self.meta.now, "request {} was made in the future", request.0);
        }
        let first = evictions.first().map(|(key, _)| key);
        check_head("eviction", self.requests.get(), first, |key| {
            key::read_eviction(key).map(|(at, request, _)| (at.0, request.0))
        })?;
        Ok(())
    }
}

/// A head lies at or below the first row; one that claims to be the first row is it.
fn check_head(
    what: &str,
    head: Head,
    first: Option<&Vec<u8>>,
    read: impl Fn(&[u8]) -> Result<Point, crate::codec::Malformed>,
) -> Result<(), String> {
    let first = first.map(|key| read(key)).transpose().map_err(|malformed| Fault::from(malformed).what)?;
    let holds = match head.first() {
        First::Nothing => first.is_none(),
        First::At(point) => first == Some(point),
        First::From(low) => first.is_none_or(|first| low <= first),
    };
    ensure!(holds, "the {what} head is {head:?}, the first row is at {first:?}");
    Ok(())
}
