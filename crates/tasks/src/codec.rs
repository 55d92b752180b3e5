//! The bytes of commands and log entries (`docs/FORMATS.md`, "Log entry").
//!
//! A command is encoded once, by whichever thread accepted it; the leader's driver then only appends encoded
//! commands to an [`EntryBuilder`] and stamps the time. Apply reads the entry in place: names, payloads and reasons
//! are slices of it, and a task's bytes are copied into its body row as they stand.
//!
//! # Invariants
//! - No input makes a reader panic, or allocate more than the input's own size times a constant.
//! - `decode_entry(build(now, commands)) == (now, commands)`, but for texts over their limits, which are cut.
//!
//! # Not here
//! - Checksums: the log's records carry them.

mod item;
mod queue;
mod raw;
mod reader;
mod schedule;
mod update;

use bytes::Bytes;
use z4_types::limits::{CONSUMER_NAME_BYTES_MAX, PROGRESS_BYTES_MAX, REASON_BYTES_MAX};
use z4_types::{Millis, QueueName, RequestId};

pub(crate) use item::{Item, RawKey, put_group, put_item, put_retry, read_group, read_retry};
pub(crate) use raw::{List, Raw, RawCreate, RawLease, RawSettlement, RawVerdict};
pub(crate) use reader::{Malformed, Reader, cut, put_len, put_long_text, put_u32, put_u64, put_u128};
pub(crate) use schedule::{RawSchedule, put_schedule, put_some_time, read_some_time};

use crate::Fault;
use crate::command::{Command, NewTask, Verdict};

/// The version of the entry format this build writes, and the only one it reads.
const ENTRY_VERSION: u8 = 1;

/// Version, now, number of commands.
const HEADER_BYTES: usize = 13;

/// Encodes one command, for [`EntryBuilder::push_encoded`].
///
/// # Panics
/// If the command is larger than 4 GiB; [`Command::check`] refuses it long before.
#[must_use]
pub fn encode(command: &Command) -> Bytes {
    let mut out = Vec::with_capacity(64);
    put_command(&mut out, command);
    out.into()
}

/// Encodes a create without building a [`Command`] around borrowed tasks.
///
/// # Panics
/// As [`encode`].
#[must_use]
pub fn encode_create(queue: &QueueName, request: Option<RequestId>, tasks: &[NewTask]) -> Bytes {
    // 64 covers the fixed parts of most items; a wrong guess costs one growth.
    let mut out = Vec::with_capacity(300 + tasks.iter().map(|task| task.weight() + 64).sum::<usize>());
    framed(&mut out, |out| put_create(out, queue, request, tasks));
    out.into()
}

/// Decodes an entry into the commands it was built from. For tools and tests; apply reads entries in place.
///
/// # Errors
/// If the bytes are not an entry of a version this build knows.
pub fn decode_entry(entry: &[u8]) -> Result<(Millis, Vec<Command>), Fault> {
    let mut reader = EntryReader::read(entry)?;
    let mut commands = Vec::new();
    while let Some(raw) = reader.next()? {
        commands.push(raw.into_command()?);
    }
    Ok((reader.now, commands))
}

/// Collects commands into the bytes of one log entry.
#[derive(Debug)]
pub struct EntryBuilder {
    out: Vec<u8>,
    commands: u32,
}

impl EntryBuilder {
    /// Starts an entry that is applied at `now` of the shard's clock.
    #[must_use]
    pub fn new(now: Millis) -> Self {
        let mut out = Vec::with_capacity(1_024);
        out.push(ENTRY_VERSION);
        put_u64(&mut out, now.0);
        put_u32(&mut out, 0);
        Self { out, commands: 0 }
    }

    /// Appends a command.
    pub fn push(&mut self, command: &Command) {
        put_command(&mut self.out, command);
        self.commands += 1;
    }

    /// Appends a command that [`encode`] or [`encode_create`] made, perhaps on another thread.
    pub fn push_encoded(&mut self, command: &[u8]) {
        self.out.extend_from_slice(command);
        self.commands += 1;
    }

    /// Returns the entry's size so far, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.out.len()
    }

    /// Returns how many commands were pushed.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.commands as usize
    }

    /// Returns the entry.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        self.out[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&self.commands.to_le_bytes());
        self.out.into()
    }
}

/// Walks the commands of an entry.
pub(crate) struct EntryReader<'a> {
    /// The proposer's clock. Invariant: at most `Millis::MAX_NAMEABLE`.
    pub(crate) now: Millis,
    left: u32,
    reader: Reader<'a>,
}

impl<'a> EntryReader<'a> {
    pub(crate) fn read(entry: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(entry);
        if reader.u8("entry version")? != ENTRY_VERSION {
            return Err(Malformed("unknown entry version"));
        }
        let now = Millis(reader.u64("entry time")?);
        if now > Millis::MAX_NAMEABLE {
            return Err(Malformed("entry time is past the year 9999"));
        }
        let left = reader.u32("command count")?;
        Ok(Self { now, left, reader })
    }

    /// Returns how many outcomes to expect; bounded by the entry's bytes.
    pub(crate) fn len(&self) -> usize {
        (self.left as usize).min(self.reader.len() / 5)
    }

    pub(crate) fn next(&mut self) -> Result<Option<Raw<'a>>, Malformed> {
        if self.left == 0 {
            self.reader.end("bytes behind the last command")?;
            return Ok(None);
        }
        self.left -= 1;
        let len = self.reader.u32("command length")? as usize;
        Raw::read(self.reader.bytes(len, "command")?).map(Some)
    }
}

/// Appends what `body` appends, behind its length.
fn framed(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    put_u32(out, 0);
    body(out);
    let len = u32::try_from(out.len() - at - 4).expect("checked commands are far below 4 GiB");
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

fn put_queue(out: &mut Vec<u8>, queue: &QueueName) {
    let name = queue.as_str();
    out.push(u8::try_from(name.len()).expect("a queue name has at most 255 bytes"));
    out.extend_from_slice(name.as_bytes());
}

fn put_create(out: &mut Vec<u8>, queue: &QueueName, request: Option<RequestId>, tasks: &[NewTask]) {
    out.push(raw::CREATE);
    put_queue(out, queue);
    out.push(request.is_some().into());
    if let Some(request) = request {
        put_u128(out, request.0);
    }
    put_len(out, tasks.len());
    for task in tasks {
        item::put_item(out, task);
    }
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    framed(out, |out| match command {
        Command::Create { queue, request, tasks } => put_create(out, queue, *request, tasks),
        Command::Lease { queue, consumer, max, max_bytes, ttl } => {
            out.push(raw::LEASE);
            put_queue(out, queue);
            put_long_text(out, cut(consumer, CONSUMER_NAME_BYTES_MAX));
            put_u32(out, *max);
            put_u64(out, *max_bytes);
            put_u64(out, ttl.0);
        }
        Command::Settle(settlements) => {
            out.push(raw::SETTLE);
            put_len(out, settlements.len());
            for settlement in settlements {
                put_u128(out, settlement.id.0);
                put_u64(out, settlement.token.0);
                put_verdict(out, &settlement.verdict);
            }
        }
        Command::Cancel(ids) => {
            out.push(raw::CANCEL);
            put_len(out, ids.len());
            for id in ids {
                put_u128(out, id.0);
            }
        }
        Command::Advance { limit } => {
            out.push(raw::ADVANCE);
            put_u32(out, *limit);
        }
        Command::SetQueue(set) => queue::put_set(out, set),
        Command::DeleteQueue { queue, etag } => queue::put_delete(out, queue, *etag),
        Command::SetPolicies(policies) => queue::put_policies(out, policies),
        Command::Pause(pause) => queue::put_pause(out, pause),
        Command::Purge(purge) => queue::put_purge(out, purge),
        Command::CancelIf(tasks) => {
            out.push(raw::CANCEL_IF);
            put_len(out, tasks.len());
            tasks.iter().for_each(|target| update::put_target(out, target));
        }
        Command::Redrive(tasks) => {
            out.push(raw::REDRIVE);
            put_len(out, tasks.len());
            for (target, delay) in tasks {
                update::put_target(out, target);
                put_u64(out, delay.0);
            }
        }
        Command::UpdateTask(task) => update::put_update(out, task),
        Command::RunNow(tasks) => {
            out.push(raw::RUN_NOW);
            put_len(out, tasks.len());
            tasks.iter().for_each(|target| update::put_target(out, target));
        }
        Command::SetGroup(set) => queue::put_set_group(out, set),
        Command::SetSchedule(set) => schedule::put_set(out, set),
        Command::DeleteSchedule { queue, name, etag } => schedule::put_delete(out, queue, name, *etag),
        Command::PauseSchedule(pause) => schedule::put_pause(out, pause),
        Command::RunSchedule(run) => schedule::put_run(out, run),
        Command::Fire(fire) => schedule::put_fire(out, fire),
    });
}

fn put_verdict(out: &mut Vec<u8>, verdict: &Verdict) {
    match verdict {
        Verdict::Ack => out.push(raw::ACK),
        Verdict::AckWith { result } => {
            out.push(raw::ACK_WITH);
            put_len(out, result.len());
            out.extend_from_slice(result);
        }
        Verdict::NackDead { reason } => {
            out.push(raw::NACK_DEAD);
            put_long_text(out, cut(reason, REASON_BYTES_MAX));
        }
        Verdict::ExtendWith { ttl, progress } => {
            out.push(raw::EXTEND_WITH);
            put_u64(out, ttl.0);
            put_long_text(out, cut(progress, PROGRESS_BYTES_MAX));
        }
        Verdict::Nack { delay, slow_group: Some(slow), reason } => {
            out.push(raw::NACK_SLOW);
            put_u64(out, slow.0);
            out.push(delay.is_some().into());
            if let Some(delay) = delay {
                put_u64(out, delay.0);
            }
            put_long_text(out, cut(reason, REASON_BYTES_MAX));
        }
        Verdict::Nack { delay: None, slow_group: None, reason } => {
            out.push(raw::NACK);
            put_long_text(out, cut(reason, REASON_BYTES_MAX));
        }
        Verdict::Nack { delay: Some(delay), slow_group: None, reason } => {
            out.push(raw::NACK_DELAY);
            put_u64(out, delay.0);
            put_long_text(out, cut(reason, REASON_BYTES_MAX));
        }
        Verdict::Release { delay } => {
            out.push(raw::RELEASE);
            put_u64(out, delay.0);
        }
        Verdict::Extend { ttl } => {
            out.push(raw::EXTEND);
            put_u64(out, ttl.0);
        }
    }
}
