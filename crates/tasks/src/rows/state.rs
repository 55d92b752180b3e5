//! Values of the rows a task has: body, schedule and state.

use z4_types::{Duration, Millis, Priority, TaskId, Token};

use crate::codec::{Item, Malformed, Reader, put_retry, put_u32, put_u64, read_retry};
use crate::command::Retry;
use crate::fair::Number;

const BODY_VERSION: u8 = 1;
/// With the defaults of the queue at the time of the create.
const BODY_VERSION_DEFAULTS: u8 = 2;
const STATE_VERSION: u8 = 2;
/// Of a task that has a group, and nothing else that older rows do not say.
const STATE_VERSION_GROUP: u8 = 3;
/// With flags that say what follows.
const STATE_VERSION_FLAGS: u8 = 4;

const DEFAULT_PRIORITY: u8 = 1;
const DEFAULT_TTL: u8 = 2;
const DEFAULT_MAX_ATTEMPTS: u8 = 4;
const DEFAULT_RETRY: u8 = 8;

/// A state row without a result says so; lengths are far below.
const NO_RESULT: u32 = u32::MAX;

/// In place of a group's number: the body says its name.
const NAMED: u32 = u32::MAX;

const HAS_STATE: u8 = 1;
const HAS_TTL: u8 = 2;
const HAS_KEY: u8 = 4;

const STATE_HAS_GROUP: u8 = 1;
const STATE_HAS_KEY: u8 = 2;
const STATE_HAS_BLOCKERS: u8 = 4;

/// What a task left open and its queue's settings answered, when it was created. None: the task named it, or the
/// settings say what z4 says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Defaults {
    pub(crate) priority: Option<Priority>,
    /// Counted from creation, as a TTL of the task's own is.
    pub(crate) ttl: Option<Duration>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) retry: Option<Retry>,
}

impl Defaults {
    fn write(&self, out: &mut Vec<u8>) {
        let bit = |is_some, bit| if is_some { bit } else { 0 };
        out.push(
            bit(self.priority.is_some(), DEFAULT_PRIORITY)
                | bit(self.ttl.is_some(), DEFAULT_TTL)
                | bit(self.max_attempts.is_some(), DEFAULT_MAX_ATTEMPTS)
                | bit(self.retry.is_some(), DEFAULT_RETRY),
        );
        if let Some(priority) = self.priority {
            out.push(priority.0);
        }
        if let Some(ttl) = self.ttl {
            put_u64(out, ttl.0);
        }
        if let Some(max_attempts) = self.max_attempts {
            put_u32(out, max_attempts);
        }
        if let Some(retry) = &self.retry {
            put_retry(out, retry);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let flags = reader.u8("defaults flags")?;
        if flags & !(DEFAULT_PRIORITY | DEFAULT_TTL | DEFAULT_MAX_ATTEMPTS | DEFAULT_RETRY) != 0 {
            return Err(Malformed("unknown defaults flags"));
        }
        let mut defaults = Self::default();
        if flags & DEFAULT_PRIORITY != 0 {
            defaults.priority = Some(Priority(reader.u8("default priority")?));
        }
        if flags & DEFAULT_TTL != 0 {
            defaults.ttl = Some(Duration(reader.u64("default ttl")?));
        }
        if flags & DEFAULT_MAX_ATTEMPTS != 0 {
            defaults.max_attempts = Some(reader.u32("default max_attempts")?);
        }
        if flags & DEFAULT_RETRY != 0 {
            defaults.retry = Some(read_retry(reader)?);
        }
        Ok(defaults)
    }

    /// Answers with them what the item leaves open.
    pub(crate) fn fill(&self, item: &mut Item<'_>) {
        item.priority = item.priority.or(self.priority);
        item.ttl = item.ttl.or(self.ttl);
        item.max_attempts = item.max_attempts.or(self.max_attempts);
        item.retry = item.retry.or(self.retry);
    }
}

/// Appends a body row.
pub(crate) fn write_body(queue: u32, defaults: &Defaults, item: &Item<'_>, out: &mut Vec<u8>) {
    if *defaults == Defaults::default() {
        out.push(BODY_VERSION);
        put_u32(out, queue);
    } else {
        out.push(BODY_VERSION_DEFAULTS);
        put_u32(out, queue);
        defaults.write(out);
    }
    out.extend_from_slice(item.raw);
}

/// Reads the defaults of a body row alone.
pub(crate) fn read_defaults(value: &[u8]) -> Result<Defaults, Malformed> {
    let mut reader = Reader::new(value);
    let version = reader.u8("body version")?;
    reader.u32("body queue")?;
    if version == BODY_VERSION { Ok(Defaults::default()) } else { Defaults::read(&mut reader) }
}

/// Reads a body row: the queue, and the item as it stood in the entry, what it left open answered by its defaults.
pub(crate) fn read_body(value: &[u8]) -> Result<(u32, Item<'_>), Malformed> {
    let mut reader = Reader::new(value);
    let version = reader.u8("body version")?;
    if !(BODY_VERSION..=BODY_VERSION_DEFAULTS).contains(&version) {
        return Err(Malformed("unknown body version"));
    }
    let queue = reader.u32("body queue")?;
    let defaults = if version == BODY_VERSION { Defaults::default() } else { Defaults::read(&mut reader)? };
    let mut item = Item::read(&mut reader)?;
    defaults.fill(&mut item);
    reader.end("bytes behind a body")?;
    Ok((queue, item))
}

/// A schedule row's value: all that a lease needs of a task that was never leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// A state row exists.
    pub(crate) has_state: bool,
    pub(crate) payload_bytes: u32,
    /// `Millis::NEVER` without a TTL.
    pub(crate) ttl_at: Millis,
    /// Its body names a key.
    pub(crate) has_key: bool,
}

impl Scheduled {
    /// Writes the value into `out` and returns the part of it that is used.
    pub(crate) fn write<'o>(&self, out: &'o mut [u8; 13]) -> &'o [u8] {
        let has_ttl = self.ttl_at != Millis::NEVER;
        out[0] = if self.has_state { HAS_STATE } else { 0 }
            | if has_ttl { HAS_TTL } else { 0 }
            | if self.has_key { HAS_KEY } else { 0 };
        out[1..5].copy_from_slice(&self.payload_bytes.to_le_bytes());
        if has_ttl {
            out[5..13].copy_from_slice(&self.ttl_at.0.to_le_bytes());
        }
        if has_ttl { &out[..] } else { &out[..5] }
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let flags = reader.u8("schedule flags")?;
        let payload_bytes = reader.u32("schedule payload length")?;
        let ttl_at = if flags & HAS_TTL != 0 { Millis(reader.u64("schedule ttl")?) } else { Millis::NEVER };
        Ok(Self { has_state: flags & HAS_STATE != 0, payload_bytes, ttl_at, has_key: flags & HAS_KEY != 0 })
    }
}

/// Where a task stands. Which index it is in follows from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the schedule.
    Waiting,
    /// Held by a consumer until `State::at`.
    Leased,
    /// Out of attempts since `State::at`.
    Dead,
    /// Acked at `State::at`, and kept.
    Done,
    /// Cancelled at `State::at`, and kept.
    Cancelled,
    /// Ended by its TTL at `State::at`, and kept.
    Expired,
    /// Waits for others to end.
    Blocked,
}

impl Phase {
    /// Returns whether the task has ended, and is kept because its queue's retention says so.
    pub(crate) fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Expired)
    }

    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Waiting => 1,
            Self::Leased => 2,
            Self::Dead => 3,
            Self::Done => 4,
            Self::Cancelled => 5,
            Self::Expired => 6,
            Self::Blocked => 7,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Result<Self, Malformed> {
        Ok(match byte {
            1 => Self::Waiting,
            2 => Self::Leased,
            3 => Self::Dead,
            4 => Self::Done,
            5 => Self::Cancelled,
            6 => Self::Expired,
            7 => Self::Blocked,
            _ => return Err(Malformed("unknown task state")),
        })
    }
}

/// How a task belongs to a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Member {
    /// It does not.
    #[default]
    None,
    /// Its body says to which one.
    Named,
    /// The group of that number counts it among its leases. A number holds while the group has open tasks, so only a task
    /// that is leased says it in its row.
    Leased(Number),
}

/// The fixed part of a state row. `Copy`, so that it outlives the borrow of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Its body names a key, which it holds while it is open.
    pub(crate) has_key: bool,
    pub(crate) queue: u32,
    pub(crate) priority: u8,
    /// Key of the schedule row while waiting, and what it was while leased or dead.
    pub(crate) deliver_at: Millis,
    pub(crate) deliveries: u32,
    pub(crate) failures: u32,
    pub(crate) payload_bytes: u32,
    /// Of the last lease, 0 before the first. Invariant: unique in the shard, grows with every delivery.
    pub(crate) token: Token,
    /// Leased: until. Dead: since. Finished: the end. Waiting: 0.
    pub(crate) at: Millis,
    /// `Millis::NEVER` without a TTL, and once dead or finished.
    pub(crate) ttl_at: Millis,
    /// Writes of the row; 0: it has none.
    pub(crate) revision: u32,
    /// Length of the result row, which only a finished task has.
    pub(crate) result_bytes: Option<u32>,
    /// Its group.
    pub(crate) member: Member,
    /// Tasks it waits for. Invariant: 0 unless it is blocked, and then the number of edges that lead to it.
    pub(crate) blockers: u32,
}

/// The texts behind the fixed part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Texts<'a> {
    /// Who holds the lease, or held the last one.
    pub(crate) consumer: &'a str,
    /// Why the last failure was one; empty before it.
    pub(crate) last_error: &'a str,
    /// What a consumer said last of how far it is.
    pub(crate) progress: &'a str,
}

/// [`Texts`] that outlive the row.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnedTexts {
    pub(crate) consumer: String,
    pub(crate) last_error: String,
    pub(crate) progress: String,
}

impl OwnedTexts {
    pub(crate) fn as_texts(&self) -> Texts<'_> {
        Texts { consumer: &self.consumer, last_error: &self.last_error, progress: &self.progress }
    }
}

impl From<Texts<'_>> for OwnedTexts {
    fn from(texts: Texts<'_>) -> Self {
        Self {
            consumer: texts.consumer.to_owned(),
            last_error: texts.last_error.to_owned(),
            progress: texts.progress.to_owned(),
        }
    }
}

impl State {
    /// Appends the row's value.
    pub(crate) fn write(&self, texts: Texts<'_>, out: &mut Vec<u8>) {
        let has_group = self.member != Member::None;
        let flags = if has_group { STATE_HAS_GROUP } else { 0 }
            | if self.has_key { STATE_HAS_KEY } else { 0 }
            | if self.blockers > 0 { STATE_HAS_BLOCKERS } else { 0 };
        let version = match flags {
            0 => STATE_VERSION,
            STATE_HAS_GROUP => STATE_VERSION_GROUP,
            _ => STATE_VERSION_FLAGS,
        };
        out.push(version);
        out.push(self.phase.to_byte());
        put_u32(out, self.queue);
        out.push(self.priority);
        put_u64(out, self.deliver_at.0);
        put_u32(out, self.deliveries);
        put_u32(out, self.failures);
        put_u32(out, self.payload_bytes);
        put_u64(out, self.token.0);
        put_u64(out, self.at.0);
        put_u64(out, self.ttl_at.0);
        put_u32(out, self.revision);
        put_u32(out, self.result_bytes.unwrap_or(NO_RESULT));
        if version == STATE_VERSION_FLAGS {
            out.push(flags);
        }
        if has_group {
            put_u32(
                out,
                match self.member {
                    Member::Leased(number) if self.phase == Phase::Leased => number.0,
                    _ => NAMED,
                },
            );
        }
        if self.blockers > 0 {
            put_u32(out, self.blockers);
        }
        for text in [texts.consumer, texts.last_error, texts.progress] {
            let len = u16::try_from(text.len()).expect("texts are cut far below 64 KiB before they get here");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// Reads a state row.
    pub(crate) fn read(value: &[u8]) -> Result<(Self, Texts<'_>), Malformed> {
        let mut reader = Reader::new(value);
        let version = reader.u8("state version")?;
        if !(1..=STATE_VERSION_FLAGS).contains(&version) {
            return Err(Malformed("unknown state version"));
        }
        let mut state = Self {
            phase: Phase::from_byte(reader.u8("task state")?)?,
            has_key: false,
            queue: reader.u32("state queue")?,
            priority: reader.u8("state priority")?,
            deliver_at: Millis(reader.u64("state deliver_at")?),
            deliveries: reader.u32("deliveries")?,
            failures: reader.u32("failures")?,
            payload_bytes: reader.u32("state payload length")?,
            token: Token(reader.u64("state token")?),
            at: Millis(reader.u64("state at")?),
            ttl_at: Millis(reader.u64("state ttl")?),
            // Of a row of version 1: it was written at least once.
            revision: 1,
            result_bytes: None,
            member: Member::None,
            blockers: 0,
        };
        if version > 1 {
            state.revision = reader.u32("state revision")?;
            let result_bytes = reader.u32("state result length")?;
            state.result_bytes = (result_bytes != NO_RESULT).then_some(result_bytes);
        }
        let flags = match version {
            STATE_VERSION_GROUP => STATE_HAS_GROUP,
            STATE_VERSION_FLAGS => reader.u8("state flags")?,
            _ => 0,
        };
        if flags & !(STATE_HAS_GROUP | STATE_HAS_KEY | STATE_HAS_BLOCKERS) != 0 {
            return Err(Malformed("unknown state flags"));
        }
        state.has_key = flags & STATE_HAS_KEY != 0;
        if flags & STATE_HAS_GROUP != 0 {
            state.member = match reader.u32("state group")? {
                NAMED => Member::Named,
                number if state.phase == Phase::Leased => Member::Leased(Number(number)),
                _ => return Err(Malformed("a task that is not leased names its group by number")),
            };
        }
        if flags & STATE_HAS_BLOCKERS != 0 {
            state.blockers = reader.u32("state blockers")?;
        }
        let mut text = |what| {
            let len = reader.u16(what)?;
            reader.text(len.into(), what)
        };
        let texts = Texts {
            consumer: text("state consumer")?,
            last_error: text("state last error")?,
            progress: if version > 1 { text("state progress")? } else { "" },
        };
        Ok((state, texts))
    }

    /// Returns the schedule row's value of this task.
    pub(crate) fn scheduled(&self) -> Scheduled {
        Scheduled {
            has_state: true,
            payload_bytes: self.payload_bytes,
            ttl_at: self.ttl_at,
            has_key: self.has_key,
        }
    }

    /// Returns the state of a task that has no state row: what its body and id say.
    pub(crate) fn pristine(id: TaskId, queue: u32, item: &Item<'_>) -> Self {
        Self {
            phase: Phase::Waiting,
            has_key: item.key.is_some(),
            queue,
            priority: item.priority.unwrap_or_default().0,
            deliver_at: item.deliver_at(id.created_at()),
            deliveries: 0,
            failures: 0,
            payload_bytes: item.payload_bytes(),
            token: Token(0),
            at: Millis(0),
            ttl_at: item.ttl_at(id.created_at()),
            revision: 0,
            result_bytes: None,
            member: if item.group.is_some() { Member::Named } else { Member::None },
            blockers: 0,
        }
    }
}
