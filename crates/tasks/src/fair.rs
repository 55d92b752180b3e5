//! Who is next: the groups of one queue in the order they are served, fairly, by weight, and within their limits.
//!
//! A task may name a group: a tenant, a customer, a document. Between groups the choice is start-time fair queueing.
//! Each group carries a tag: the virtual time at which its next task starts. The group with the smallest tag of the
//! most urgent class is next, virtual time moves to its tag, and the tag moves on by [`STRIDE`] divided by the group's
//! weight. A group that comes (back) with tasks starts at virtual time: no debt, no credit. So a tenant with a
//! million tasks takes its share, and one with ten waits for a round of groups, not for the million.
//!
//! ```text
//!             not due · slowed · no token                at its limit · empty
//!   later ◀──────────────────────────────── a group ────────────────────────▶ in no set: an event brings it back
//!     │ its time came                         ▲  │ may be served now
//!     └───────────── judged anew ─────────────┘  ▼
//!                                   ready: (class, tag, due time of its head, number) ── first ──▶ next
//! ```
//! A class is a priority, lowered by one for each span its head has waited where the queue wants ageing. Each class
//! is a server of its own, with its own virtual time and a tag per group: were there one virtual time, urgent tasks
//! would push it past the tags of groups that wait in a lower class, and make them forget their weights. A group is
//! in `later`, too, while it is ready but will move to a more urgent class without an event.
//!
//! # How Lease uses it
//! A row `F` queue · group · priority · deliver_at · id stands for each task that waits in a group. Groups know the
//! first row of each of their lines, exactly: whoever deletes a head says what the next row is. So a choice never
//! reads storage, a restart reads one row a group, and a batch reads a few rows ahead of each line it visits
//! ([`Ahead`]):
//! ```text
//! room = min(max, limits of the queue: Limits::room)     one bucket and one gauge for the whole batch
//! groups.feed(heads of the lines without a group)        a scan only where a head is not known
//! while picks < room:
//!     choice = groups.next(now) else stop
//!     (row, next) = ahead.take(groups, choice, left, fetch)   fetch: one scan of a few F rows (number 0: of S rows)
//!     the TTL has passed:    groups.remove(…, next), remember to end it
//!     it exceeds the bytes:  stop; nothing was charged
//!     else:                  groups.charge(choice, next, now), remember to deliver it
//! then the rows change: F deleted, lease and state rows written; at the end of the entry groups.write(…)
//! the queue is asked again at max(its next token, groups.next_time)
//! ```
//! A thousand tasks over a hundred groups are a hundred scans of a dozen rows. Other verbs: create calls `push`; ack,
//! and a failure for good, `ended`; nack, release and expiry `returned`; cancel of a waiting task `remove`; a worker's
//! Retry-After `slow`; advance `forget`. A failed task of a serial group keeps its place in line (its deliver_at
//! stays), and its delay slows the group: otherwise the next task would overtake it.
//!
//! # Invariants
//! - What is chosen is a function of the rows and of shard time: groups that were rebuilt choose the same. Sets, and
//!   when they were last brought up to date, are caches.
//! - A group is never over its concurrency, and in any span `t` is served at most `burst + rate · t` times.
//! - A group has a number while it is open (tasks wait or are leased), slowed, short of tokens, or shortly in debt.
//!   No row but F rows, lease states and its own may name it: numbers are used again, the smallest first.
//!
//! # Not here
//! - Rows in storage, TTLs, byte budgets, the queue's own bucket: the verbs. Pauses: a paused queue asks nobody who
//!   is next.
//! - Which limits a group has: the caller resolves settings and hands them in.
//!
//! # Caveats
//! - Groups that become due at one moment, or age at one, are judged anew in the choice that follows: O(log n) each, a
//!   quarter of a second for a million at once. [`Groups::promote`] does it ahead of time, and changes no answer.
//! - A group that comes back more than [`DEBT_KEPT`] after it was last open has forgotten the rest of one task's debt.
//!
//! Sources: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996; ADR-0011 items 7 and 8.

mod ahead;
mod explain;
mod few;
mod group;
mod limits;
mod row;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::hash::Hasher;
use std::sync::Arc;

use z4_types::{Duration, Millis};

pub(crate) use ahead::Ahead;
pub(crate) use explain::{AHEAD_COUNTED_MAX, Reason};
pub(crate) use group::Group;
pub(crate) use limits::{Bucket, Gate, GroupLimits, Limits};

use crate::Fault;
use crate::head::Point;
use group::{Key, Line, Tags};

/// What a task of a group of weight 1 moves its tag by. Large enough that the largest weight is rounded by less than
/// 1 %, small enough that virtual time, which moves by at most this much a task, lasts for 2^48 tasks of one class: 89
/// years at 100,000 a second without the queue ever running out of groups. Past it tags saturate: all groups are
/// served, oldest head first, by nobody's weight. Nothing wraps.
const STRIDE: u64 = 1 << 16;

/// Largest weight of a group; the smallest is 1. Settings refuse others, and here they count as the nearest.
pub(crate) const WEIGHT_MAX: u32 = 1_000;

/// Numbers are below this: a row that says otherwise is damaged, and would make us allocate for all numbers below it.
const NUMBERS_MAX: u32 = 1 << 24;

/// How long a group is remembered that owes a part of its last task to the others. Without it, a group that pushes
/// its next task when the last is done would be new each time, and first.
const DEBT_KEPT: Duration = Duration(1_000);

/// The number of a group within its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number(pub(crate) u32);

impl Number {
    /// The tasks without a group, where a queue has groups at all: one more group, of weight 1 and without limits.
    pub(crate) const UNGROUPED: Self = Self(0);
}

/// Whose task is next, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) group: Number,
    /// The line of the group whose head it is.
    pub(crate) priority: u8,
    /// The class it is served in: the priority, less what it gained by ageing.
    pub(crate) class: u8,
    /// The task: due time and id.
    pub(crate) head: Point,
}

/// The groups of one queue. See the module essay.
#[derive(Debug)]
pub(crate) struct Groups {
    /// By number. Invariant: slot 0 holds the tasks without a group.
    slots: Vec<Option<Box<Group>>>,
    /// Hash of the name, number: comparing a million names on the way down a tree would be a cache miss each.
    /// Invariant: exactly the named groups in `slots`. Never seen outside, so that any hash does.
    names: BTreeSet<(u64, u32)>,
    /// Invariant: exactly the empty slots.
    free: BTreeSet<u32>,
    /// Virtual time of each class: the start tag of what was served last. Invariant: none decreases.
    times: Tags,
    /// Groups that may be served, as they were last judged. Invariant: exactly the `ready` of each group.
    ready: BTreeSet<Key>,
    /// When a group is to be judged anew. Invariant: exactly the `again` of each group, but never.
    later: BTreeSet<(Millis, u32)>,
    /// Groups that are not open, by when they may be forgotten. Invariant: exactly their `keep_until`.
    idle: BTreeSet<(Millis, u32)>,
    /// Numbers whose rows in storage are older, some of them twice. Invariant: empty between entries; has each group whose
    /// `is_dirty` is set.
    dirty: Vec<u32>,
    /// A class is gained for each of these spans waited.
    ageing: Option<Duration>,
}

impl Groups {
    /// Returns a queue's groups when it has none.
    pub(crate) fn new(ageing: Option<Duration>) -> Self {
        let ungrouped = Group::new("", Arc::new(GroupLimits::default()));
        Self {
            slots: vec![Some(Box::new(ungrouped))],
            names: BTreeSet::new(),
            free: BTreeSet::new(),
            times: Tags::default(),
            ready: BTreeSet::new(),
            later: BTreeSet::new(),
            idle: BTreeSet::new(),
            dirty: Vec::new(),
            ageing,
        }
    }

    /// Returns how many groups have a number, but the tasks without a group.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Returns whether no group is left: the caller drops the whole, and deletes row 0.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Returns the number of a group by name, if it has one.
    pub(crate) fn number(&self, name: &str) -> Option<Number> {
        let hash = hash(name);
        let mut found = self.names.range((hash, 0)..=(hash, u32::MAX)).map(|(_, number)| Number(*number));
        found.find(|number| self.get(*number).is_some_and(|group| *group.name == *name))
    }

    /// Returns a group.
    pub(crate) fn get(&self, number: Number) -> Option<&Group> {
        self.slots.get(number.0 as usize)?.as_deref()
    }

    /// Returns all groups in order of number, but the tasks without a group.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Number, &Group)> {
        let slots = (0..).zip(&self.slots).skip(1);
        slots.filter_map(|(number, slot)| Some((Number(number), slot.as_deref()?)))
    }

    /// Returns the groups from a number on, likewise.
    pub(crate) fn from(&self, first: u32) -> impl Iterator<Item = (Number, &Group)> {
        let first = first.max(1);
        let slots = (first..).zip(self.slots.iter().skip(first as usize));
        slots.filter_map(|(number, slot)| Some((Number(number), slot.as_deref()?)))
    }

    // Tasks come and go.

    /// A task of a group waits: it is in line at `point`. Returns the group's number, made if it had none, with
    /// `limits`.
    ///
    /// # Errors
    /// `Corrupt`, if a task waits there already as the head.
    pub(crate) fn push(
        &mut self,
        name: &str,
        limits: impl FnOnce() -> Arc<GroupLimits>,
        priority: u8,
        point: Point,
        now: Millis,
    ) -> Result<Number, Fault> {
        let number = self.number(name).unwrap_or_else(|| self.open(name, limits()));
        self.insert(number, priority, point, now)?;
        Ok(number)
    }

    /// A task that was leased waits again, at `point`.
    ///
    /// # Errors
    /// `Corrupt`, if no task of the group was leased.
    pub(crate) fn returned(
        &mut self,
        number: Number,
        priority: u8,
        point: Point,
        now: Millis,
    ) -> Result<(), Fault> {
        // In this order: a group that is not open for a moment might lose its number.
        self.insert(number, priority, point, now)?;
        self.ended(number, now)
    }

    /// A task that was leased is done, or will never wait here again.
    ///
    /// # Errors
    /// `Corrupt`, if no task of the group was leased.
    pub(crate) fn ended(&mut self, number: Number, now: Millis) -> Result<(), Fault> {
        if number == Number::UNGROUPED {
            return Ok(());
        }
        let group = self.group_mut(number)?;
        let was_full = group.limits.effective().concurrency.is_some_and(|limit| group.leased >= limit);
        group.leased = group
            .leased
            .checked_sub(1)
            .ok_or_else(|| Fault::corrupt(format!("group {} has more leases than its row", group.name)))?;
        if was_full || !group.is_open() {
            self.changed(number, now);
        } else {
            self.soil(number.0);
        }
        Ok(())
    }

    /// The task at `point` no longer waits, and was not served. `next` finds the first row behind `point`; it is
    /// asked only if `point` is the head and not the last.
    ///
    /// # Errors
    /// `Corrupt`, if the line does not have such a task; what `next` fails with.
    pub(crate) fn remove(
        &mut self,
        number: Number,
        priority: u8,
        point: Point,
        next: impl FnOnce() -> Result<Option<Point>, Fault>,
        now: Millis,
    ) -> Result<(), Fault> {
        let group = self.group_mut(number)?;
        let line = group.line(priority).ok_or_else(|| no_such_task(number, point))?;
        if line.head() == point {
            let next = if line.waiting > 1 { next()? } else { None };
            group.advance(number, priority, next)?;
        } else if point < line.head() || line.waiting == 1 {
            return Err(no_such_task(number, point));
        } else {
            line.waiting -= 1;
        }
        self.changed(number, now);
        Ok(())
    }

    /// Says what waits without a group: (priority, tasks, head) of each line, ascending, none empty. For before a
    /// choice.
    pub(crate) fn feed(&mut self, lines: impl Iterator<Item = (u8, u64, Point)>, now: Millis) {
        let ungrouped = self.slots[0].as_mut().expect("slot 0 is never emptied");
        // No tag is raised here: how often a caller feeds must change no answer. Its old tags do no harm, they are
        // raised to virtual time when it is served.
        ungrouped.lines.replace(lines.map(|(priority, waiting, head)| Line::new(priority, waiting, head)));
        self.place(0, now);
    }

    // Service.

    /// Returns whose task is next at `now`, if any may be served. Changes nothing but caches.
    pub(crate) fn next(&mut self, now: Millis) -> Option<Choice> {
        self.promote(now, usize::MAX);
        let key = self.ready.first()?;
        let group = self.get(Number(key.number)).expect("a group that is ready has a slot");
        let line = group.lines.iter().find(|line| line.priority == key.priority);
        let head = line.expect("a group is ready with a line it has").head();
        Some(Choice { group: Number(key.number), priority: key.priority, class: key.class, head })
    }

    /// The choice is leased: the group is charged for it. `next`: what is behind it in its line.
    ///
    /// # Errors
    /// `Corrupt`, if `next` contradicts the number of tasks that wait in that line.
    pub(crate) fn charge(&mut self, choice: &Choice, next: Option<Point>, now: Millis) -> Result<(), Fault> {
        let time = self.times.get(choice.class);
        let group = self.group_mut(choice.group)?;
        debug_assert!(group.line(choice.priority).is_some_and(|line| line.head() == choice.head));
        let start = group.tags.get(choice.class).max(time);
        group.tags.set(choice.class, start.saturating_add(group.limits.stride()));
        if let Some(rate) = group.limits.limits.rate {
            group.bucket.take(rate, now, 1);
        }
        if choice.group != Number::UNGROUPED {
            group.leased += 1;
        }
        group.advance(choice.group, choice.priority, next)?;
        self.times.set(choice.class, start);
        self.soil(0);
        self.changed(choice.group, now);
        Ok(())
    }

    /// Nothing of the group is served before `until`. It may be later than that already.
    ///
    /// # Errors
    /// `Corrupt`, if there is no such group.
    pub(crate) fn slow(&mut self, number: Number, until: Millis, now: Millis) -> Result<(), Fault> {
        if number == Number::UNGROUPED {
            return Ok(());
        }
        let group = self.group_mut(number)?;
        group.blocked_until = group.blocked_until.max(until);
        self.changed(number, now);
        Ok(())
    }

    // Settings.

    /// The limits of groups, or the queue's ageing, have changed: `limits` gives those of a name. O(n log n).
    pub(crate) fn retune(
        &mut self,
        ageing: Option<Duration>,
        limits: impl Fn(&str) -> Arc<GroupLimits>,
        now: Millis,
    ) {
        self.ageing = ageing;
        for number in 0..u32::try_from(self.slots.len()).expect("numbers are 32 bits") {
            let Some(group) = &mut self.slots[number as usize] else { continue };
            if number > 0 {
                group.limits = limits(&group.name);
                let before = group.bucket;
                if let Some(rate) = group.limits.limits.rate {
                    group.bucket.clamp(rate, now);
                }
                if group.bucket != before {
                    self.soil(number);
                }
            }
            self.place(number, now);
        }
    }

    /// The limits of one group have changed.
    pub(crate) fn retune_one(&mut self, name: &str, limits: Arc<GroupLimits>, now: Millis) {
        let Some(number) = self.number(name) else { return };
        let group = self.slots[number.0 as usize].as_mut().expect("a group that is named has a slot");
        group.limits = limits;
        if let Some(rate) = group.limits.limits.rate {
            group.bucket.clamp(rate, now);
        }
        self.soil(number.0);
        self.place(number.0, now);
    }

    // Time.

    /// Returns when a choice may be possible if nothing happens until then: `now` if it is, None if only an event
    /// helps. The tasks without a group count as they were last fed.
    pub(crate) fn next_time(&self, now: Millis) -> Option<Millis> {
        if !self.ready.is_empty() {
            return Some(now);
        }
        self.later.first().map(|(at, _)| now.max(*at))
    }

    /// Returns when groups are worth judging anew ahead of a choice, if at least `many` wait for time.
    pub(crate) fn next_promotion(&self, many: usize) -> Option<Millis> {
        if self.later.len() < many {
            return None;
        }
        self.later.first().map(|(at, _)| *at)
    }

    /// Judges up to `limit` of the groups anew whose time has come. Changes no answer; returns whether some are left.
    pub(crate) fn promote(&mut self, now: Millis, limit: usize) -> bool {
        let mut left = limit;
        while let Some(&(at, number)) = self.later.first()
            && at <= now
        {
            if left == 0 {
                return true;
            }
            left -= 1;
            self.place(number, now);
        }
        false
    }

    /// Returns when the next group may be forgotten.
    pub(crate) fn next_forget(&self) -> Option<Millis> {
        self.idle.first().map(|(at, _)| *at)
    }

    /// Forgets up to `limit` groups that are not open and owe nothing any more. Changes rows: a verb's work.
    pub(crate) fn forget(&mut self, now: Millis, limit: usize) -> usize {
        let mut forgotten = 0;
        while let Some(&(at, number)) = self.idle.first()
            && at <= now
            && forgotten < limit
        {
            self.idle.pop_first();
            self.close(number);
            forgotten += 1;
        }
        forgotten
    }

    // Within.

    fn group_mut(&mut self, number: Number) -> Result<&mut Group, Fault> {
        let slot = self.slots.get_mut(number.0 as usize).and_then(Option::as_deref_mut);
        slot.ok_or_else(|| Fault::corrupt(format!("a task names group number {}, which is free", number.0)))
    }

    fn open(&mut self, name: &str, limits: Arc<GroupLimits>) -> Number {
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("a shard's groups are limited far below")
        });
        self.names.insert((hash(name), number));
        self.slots[number as usize] = Some(Box::new(Group::new(name, limits)));
        Number(number)
    }

    /// Takes the number back from a group that is in no set.
    fn close(&mut self, number: u32) {
        let group = self.slots[number as usize].take().expect("only groups are closed");
        self.names.remove(&(hash(&group.name), number));
        self.free.insert(number);
        self.dirty.push(number);
    }

    fn insert(&mut self, number: Number, priority: u8, point: Point, now: Millis) -> Result<(), Fault> {
        if number == Number::UNGROUPED {
            return Ok(());
        }
        let time = self.times.get(priority);
        let group = self.group_mut(number)?;
        match group.line(priority) {
            Some(line) if line.head() == point => {
                return Err(Fault::corrupt(format!("task {:032x} waits twice", point.1)));
            }
            Some(line) if line.head() < point => {
                // Behind others: the group is open, and its place is that of its heads.
                line.waiting += 1;
                self.soil(number.0);
                return Ok(());
            }
            Some(line) => {
                line.waiting += 1;
                line.set_head(point);
            }
            None => {
                group.add_line(Line::new(priority, 1, point));
                group.tags.raise(priority, time);
            }
        }
        self.changed(number, now);
        Ok(())
    }

    /// A group's row is to be written.
    fn soil(&mut self, number: u32) {
        let group = self.slots[number as usize].as_mut().expect("a group that changed has a slot");
        if !std::mem::replace(&mut group.is_dirty, true) {
            self.dirty.push(number);
        }
    }

    /// A group's values have changed: its row is to be written, and its place found again.
    fn changed(&mut self, number: Number, now: Millis) {
        let number = number.0;
        self.soil(number);
        let group = self.slots[number as usize].as_mut().expect("a group that changed has a slot");
        let before = std::mem::take(&mut group.keep_until);
        if number > 0 {
            group.tags.prune(&self.times, &group.lines);
            if !group.is_open() {
                let rest = group.blocked_until.max(group.bucket.full_from(group.limits.limits.rate));
                let debt = if group.tags.owe(&self.times) { now + DEBT_KEPT } else { now };
                // A group that idled already keeps its term: what happens meanwhile only makes it longer.
                let term = rest.max(if before == Millis(0) { debt } else { before });
                group.keep_until = term.max(Millis(1));
            }
        }
        let keep_until = group.keep_until;
        if before > Millis(0) {
            self.idle.remove(&(before, number));
        }
        self.place(number, now);
        if keep_until > now {
            self.idle.insert((keep_until, number));
        } else if keep_until > Millis(0) {
            self.close(number);
        }
    }

    /// Puts a group where it belongs at `now`.
    fn place(&mut self, number: u32, now: Millis) {
        let group = self.slots[number as usize].as_mut().expect("only groups are placed");
        let verdict = group.judge(number, self.ageing, now);
        if group.ready != verdict.ready {
            if let Some(old) = &group.ready {
                self.ready.remove(old);
            }
            self.ready.extend(verdict.ready);
            group.ready = verdict.ready;
        }
        if group.again != verdict.again {
            if group.again != Millis::NEVER {
                self.later.remove(&(group.again, number));
            }
            if verdict.again != Millis::NEVER {
                self.later.insert((verdict.again, number));
            }
            group.again = verdict.again;
        }
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.finish()
}

fn no_such_task(number: Number, point: Point) -> Fault {
    Fault::corrupt(format!("task {:032x} does not wait in group number {}", point.1, number.0))
}
