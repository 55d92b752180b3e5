//! One task of a create, as bytes: in the log entry, and unchanged in its body row.

use bytes::Bytes;
use z4_types::limits::{AFTER_TASKS_MAX, GROUP_NAME_BYTES_MAX, KEY_BYTES_MAX};
use z4_types::{Duration, Millis, Priority, RequestId, TaskId};

use super::reader::{Malformed, Reader, cut, put_len, put_long_text, put_u32, put_u64, put_u128};
use crate::after::{on_failure_byte, read_on_failure};
use crate::command::{Due, Key, NewTask, OnConflict, OnFailure, Retry};

const DUE_AT: u8 = 1;
const DUE_AFTER: u8 = 2;
const MAX_ATTEMPTS: u8 = 4;
const RETRY: u8 = 8;
const TTL: u8 = 16;
const REQUEST: u8 = 32;
/// The creator named no priority; the byte is there all the same.
const OPEN_PRIORITY: u8 = 64;
/// A second byte of flags follows the priority.
const MORE: u8 = 128;

const GROUP: u8 = 1;
const KEY: u8 = 2;
const AFTER: u8 = 4;

const FAIL: u8 = 1;
const KEEP: u8 = 2;
const REPLACE: u8 = 3;
const DEBOUNCE: u8 = 4;

/// Fewest bytes of an item: flags, priority, pair count, payload length.
pub(crate) const ITEM_BYTES_MIN: usize = 10;

/// A key read in place; see [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawKey<'a> {
    /// 1 to `KEY_BYTES_MAX` bytes.
    pub(crate) name: &'a str,
    pub(crate) on_conflict: OnConflict,
    pub(crate) window: Duration,
}

/// The tasks another one comes after, read in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawAfter<'a> {
    /// Ids of 16 bytes each, at least one.
    ids: &'a [u8],
    pub(crate) on_failure: OnFailure,
}

impl<'a> RawAfter<'a> {
    pub(crate) fn ids(self) -> impl ExactSizeIterator<Item = TaskId> + use<'a> {
        self.ids.as_chunks().0.iter().map(|id| TaskId(u128::from_le_bytes(*id)))
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = reader.u8("predecessors")?;
        let on_failure = read_on_failure(reader.u8("on_failure")?)?;
        if count == 0 || usize::from(count) > AFTER_TASKS_MAX {
            return Err(Malformed("no number of predecessors"));
        }
        Ok(Self { ids: reader.bytes(usize::from(count) * 16, "predecessors")?, on_failure })
    }
}

/// A task read in place. Invariant: the metadata bytes hold exactly `pairs` valid pairs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item<'a> {
    /// All bytes of the item.
    pub(crate) raw: &'a [u8],
    pub(crate) due: Due,
    pub(crate) priority: Option<Priority>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) retry: Option<Retry>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) request: Option<RequestId>,
    /// Not empty, at most 255 bytes.
    pub(crate) group: Option<&'a str>,
    pub(crate) key: Option<RawKey<'a>>,
    pub(crate) after: Option<RawAfter<'a>>,
    pairs: u32,
    metadata: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Item<'a> {
    /// Reads the item at the front of `reader`.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let all = reader.rest();
        let flags = reader.u8("item flags")?;
        let named = Priority(reader.u8("item priority")?);
        let more = if flags & MORE != 0 { reader.u8("item more flags")? } else { 0 };
        if more & !(GROUP | KEY | AFTER) != 0 || (flags & MORE != 0 && more == 0) {
            return Err(Malformed("unknown item flags"));
        }
        let priority = (flags & OPEN_PRIORITY == 0).then_some(named);
        let due = match flags & (DUE_AT | DUE_AFTER) {
            0 => Due::Now,
            DUE_AT => Due::At(Millis(reader.u64("deliver_at")?)),
            DUE_AFTER => Due::After(Duration(reader.u64("delay")?)),
            _ => return Err(Malformed("both deliver_at and delay")),
        };
        let max_attempts = if flags & MAX_ATTEMPTS != 0 { Some(reader.u32("max_attempts")?) } else { None };
        let retry = if flags & RETRY != 0 { Some(read_retry(reader)?) } else { None };
        let ttl = if flags & TTL != 0 { Some(Duration(reader.u64("ttl")?)) } else { None };
        let request = if flags & REQUEST != 0 { Some(RequestId(reader.u128("item request")?)) } else { None };
        let group = if more & GROUP != 0 { Some(read_group(reader)?) } else { None };
        let key = if more & KEY != 0 { Some(RawKey::read(reader)?) } else { None };
        let after = if more & AFTER != 0 { Some(RawAfter::read(reader)?) } else { None };
        let pairs = reader.u32("metadata pairs")?;
        let before = reader.rest();
        for _ in 0..pairs {
            reader.long_text("metadata key")?;
            reader.long_text("metadata value")?;
        }
        let metadata = &before[..before.len() - reader.len()];
        let len = reader.u32("payload length")? as usize;
        let payload = reader.bytes(len, "payload")?;
        let raw = &all[..all.len() - reader.len()];
        Ok(Self {
            raw,
            due,
            priority,
            max_attempts,
            retry,
            ttl,
            request,
            group,
            key,
            after,
            pairs,
            metadata,
            payload,
        })
    }

    /// Returns the metadata pairs, owned.
    pub(crate) fn metadata(&self) -> Vec<(String, String)> {
        let mut reader = Reader::new(self.metadata);
        let mut text = || reader.long_text("metadata").expect("checked by read").to_owned();
        (0..self.pairs).map(|_| (text(), text())).collect()
    }

    /// Returns when a task created at `now` is first due. The calendar ends it: a sum past 9999 is that last instant.
    pub(crate) fn deliver_at(&self, now: Millis) -> Millis {
        match self.due {
            Due::Now => now,
            Due::At(at) => at.min(Millis::MAX_NAMEABLE),
            Due::After(delay) => (now + delay).min(Millis::MAX_NAMEABLE),
        }
    }

    /// Returns when a task created at `now` expires, `Millis::NEVER` if it does not.
    pub(crate) fn ttl_at(&self, now: Millis) -> Millis {
        self.ttl.map_or(Millis::NEVER, |ttl| (now + ttl).min(Millis::MAX_NAMEABLE))
    }

    /// Returns the payload's length; entries are below 4 GiB, so it fits.
    pub(crate) fn payload_bytes(&self) -> u32 {
        u32::try_from(self.payload.len()).expect("read from a u32 length")
    }

    /// Returns the task as its creator described it.
    pub(crate) fn to_new_task(self) -> NewTask {
        NewTask {
            payload: Bytes::copy_from_slice(self.payload),
            metadata: self.metadata(),
            due: self.due,
            priority: self.priority,
            max_attempts: self.max_attempts,
            retry: self.retry,
            ttl: self.ttl,
            request: self.request,
            group: self.group.map(str::to_owned),
            key: self.key.map(|key| Box::new(key.to_key())),
            after: self.after.iter().flat_map(|after| after.ids()).collect(),
            on_failure: self.after.map_or_else(OnFailure::default, |after| after.on_failure),
        }
    }
}

impl<'a> RawKey<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            name: read_key(reader)?,
            on_conflict: match reader.u8("on conflict")? {
                FAIL => OnConflict::Fail,
                KEEP => OnConflict::Keep,
                REPLACE => OnConflict::Replace,
                DEBOUNCE => OnConflict::Debounce,
                _ => return Err(Malformed("unknown on conflict")),
            },
            window: Duration(reader.u64("key window")?),
        })
    }

    fn to_key(self) -> Key {
        Key { name: self.name.to_owned(), on_conflict: self.on_conflict, window: self.window }
    }
}

/// Appends the name of a key; one that is too long, which a check refuses, is cut.
pub(crate) fn put_key(out: &mut Vec<u8>, name: &str) {
    let name = cut(name, KEY_BYTES_MAX);
    out.push(u8::try_from(name.len()).expect("cut to 255 bytes"));
    out.extend_from_slice(name.as_bytes());
}

/// Reads the name of a key.
pub(crate) fn read_key<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let len = reader.u8("key length")?;
    let name = reader.text(len.into(), "key")?;
    if name.is_empty() { Err(Malformed("empty key")) } else { Ok(name) }
}

/// Appends a retry policy.
pub(crate) fn put_retry(out: &mut Vec<u8>, retry: &Retry) {
    put_u64(out, retry.initial.0);
    put_u64(out, retry.cap.0);
    put_u32(out, retry.multiplier_percent);
    out.push(retry.jitter_percent);
}

/// Reads a retry policy.
pub(crate) fn read_retry(reader: &mut Reader<'_>) -> Result<Retry, Malformed> {
    Ok(Retry {
        initial: Duration(reader.u64("retry initial")?),
        cap: Duration(reader.u64("retry cap")?),
        multiplier_percent: reader.u32("retry multiplier")?,
        jitter_percent: reader.u8("retry jitter")?,
    })
}

/// Appends the name of a group; one that is too long, which a check refuses, is cut.
pub(crate) fn put_group(out: &mut Vec<u8>, group: &str) {
    let group = cut(group, GROUP_NAME_BYTES_MAX);
    out.push(u8::try_from(group.len()).expect("cut to 255 bytes"));
    out.extend_from_slice(group.as_bytes());
}

/// Reads the name of a group.
pub(crate) fn read_group<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let len = reader.u8("group length")?;
    let group = reader.text(len.into(), "group")?;
    if group.is_empty() { Err(Malformed("empty group")) } else { Ok(group) }
}

/// Appends the bytes of `task`.
pub(crate) fn put_item(out: &mut Vec<u8>, task: &NewTask) {
    let mut flags = match task.due {
        Due::Now => 0,
        Due::At(_) => DUE_AT,
        Due::After(_) => DUE_AFTER,
    };
    flags |= if task.max_attempts.is_some() { MAX_ATTEMPTS } else { 0 };
    flags |= if task.retry.is_some() { RETRY } else { 0 };
    flags |= if task.ttl.is_some() { TTL } else { 0 };
    flags |= if task.request.is_some() { REQUEST } else { 0 };
    flags |= if task.priority.is_none() { OPEN_PRIORITY } else { 0 };
    let group = task.group.as_deref().filter(|group| !group.is_empty());
    // One without a name, which a check refuses, is none.
    let key = task.key.as_deref().filter(|key| !key.name.is_empty());
    // Past the limit, which a check refuses, they are left out.
    let after = &task.after[..task.after.len().min(AFTER_TASKS_MAX)];
    let more = if group.is_some() { GROUP } else { 0 }
        | if key.is_some() { KEY } else { 0 }
        | if after.is_empty() { 0 } else { AFTER };
    flags |= if more != 0 { MORE } else { 0 };
    out.push(flags);
    out.push(task.priority.unwrap_or_default().0);
    if more != 0 {
        out.push(more);
    }
    match task.due {
        Due::Now => {}
        Due::At(at) => put_u64(out, at.0),
        Due::After(delay) => put_u64(out, delay.0),
    }
    if let Some(max_attempts) = task.max_attempts {
        put_u32(out, max_attempts);
    }
    if let Some(retry) = &task.retry {
        put_retry(out, retry);
    }
    if let Some(ttl) = task.ttl {
        put_u64(out, ttl.0);
    }
    if let Some(request) = task.request {
        put_u128(out, request.0);
    }
    if let Some(group) = group {
        put_group(out, group);
    }
    if let Some(key) = key {
        put_key(out, &key.name);
        out.push(match key.on_conflict {
            OnConflict::Fail => FAIL,
            OnConflict::Keep => KEEP,
            OnConflict::Replace => REPLACE,
            OnConflict::Debounce => DEBOUNCE,
        });
        put_u64(out, key.window.0);
    }
    if !after.is_empty() {
        out.push(u8::try_from(after.len()).expect("cut to the limit"));
        out.push(on_failure_byte(task.on_failure));
        after.iter().for_each(|id| put_u128(out, id.0));
    }
    put_len(out, task.metadata.len());
    for (key, value) in &task.metadata {
        put_long_text(out, key);
        put_long_text(out, value);
    }
    put_len(out, task.payload.len());
    out.extend_from_slice(&task.payload);
}
