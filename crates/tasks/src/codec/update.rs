//! The bytes of commands that change single tasks.

use bytes::Bytes;
use z4_types::{Duration, Millis, Priority, TaskId};

use super::item::{put_key, read_key};
use super::put_queue;
use super::raw::{self, owned_queue, queue_name};
use super::reader::{Malformed, Reader, put_len, put_long_text, put_u64, put_u128};
use crate::command::{Due, Target, UpdateTask, Which};

/// Fewest bytes of a target: flags, and queue and key of a byte each with their lengths.
pub(super) const TARGET_BYTES_MIN: usize = 5;

const ETAG: u8 = 1;
const BY_KEY: u8 = 2;

const DUE_NOW: u8 = 2;
const DUE_AT: u8 = 4;
const DUE_AFTER: u8 = 8;
const PRIORITY: u8 = 16;
const PAYLOAD: u8 = 32;
const METADATA: u8 = 64;

pub(super) fn put_target(out: &mut Vec<u8>, target: &Target) {
    let etag = if target.etag.is_some() { ETAG } else { 0 };
    match &target.which {
        Which::Id(id) => {
            out.push(etag);
            put_u128(out, id.0);
        }
        Which::Key { queue, key } => {
            out.push(etag | BY_KEY);
            put_queue(out, queue);
            put_key(out, key);
        }
    }
    if let Some(etag) = target.etag {
        put_u64(out, etag);
    }
}

pub(super) fn read_target(reader: &mut Reader<'_>) -> Result<Target, Malformed> {
    let flags = reader.u8("target flags")?;
    if flags & !(ETAG | BY_KEY) != 0 {
        return Err(Malformed("unknown target flags"));
    }
    let which = if flags & BY_KEY != 0 {
        Which::Key { queue: owned_queue(queue_name(reader)?), key: read_key(reader)?.to_owned() }
    } else {
        Which::Id(TaskId(reader.u128("task id")?))
    };
    let etag = if flags & ETAG != 0 { Some(reader.u64("etag")?) } else { None };
    Ok(Target { which, etag })
}

pub(super) fn put_update(out: &mut Vec<u8>, update: &UpdateTask) {
    out.push(raw::UPDATE);
    put_target(out, &update.target);
    let bit = |is_some, bit| if is_some { bit } else { 0 };
    let due = match update.due {
        None => 0,
        Some(Due::Now) => DUE_NOW,
        Some(Due::At(_)) => DUE_AT,
        Some(Due::After(_)) => DUE_AFTER,
    };
    out.push(
        due | bit(update.priority.is_some(), PRIORITY)
            | bit(update.payload.is_some(), PAYLOAD)
            | bit(update.metadata.is_some(), METADATA),
    );
    match update.due {
        None | Some(Due::Now) => {}
        Some(Due::At(at)) => put_u64(out, at.0),
        Some(Due::After(delay)) => put_u64(out, delay.0),
    }
    if let Some(priority) = update.priority {
        out.push(priority.0);
    }
    if let Some(payload) = &update.payload {
        put_len(out, payload.len());
        out.extend_from_slice(payload);
    }
    if let Some(metadata) = &update.metadata {
        put_len(out, metadata.len());
        for (key, value) in metadata {
            put_long_text(out, key);
            put_long_text(out, value);
        }
    }
}

pub(super) fn read_update(mut reader: Reader<'_>) -> Result<UpdateTask, Malformed> {
    let target = read_target(&mut reader)?;
    let flags = reader.u8("update flags")?;
    let has = |bit| flags & bit != 0;
    if flags & !(DUE_NOW | DUE_AT | DUE_AFTER | PRIORITY | PAYLOAD | METADATA) != 0 {
        return Err(Malformed("unknown update flags"));
    }
    let due = match flags & (DUE_NOW | DUE_AT | DUE_AFTER) {
        0 => None,
        DUE_NOW => Some(Due::Now),
        DUE_AT => Some(Due::At(Millis(reader.u64("deliver_at")?))),
        DUE_AFTER => Some(Due::After(Duration(reader.u64("delay")?))),
        _ => return Err(Malformed("an update is due twice")),
    };
    let priority = if has(PRIORITY) { Some(Priority(reader.u8("priority")?)) } else { None };
    let payload = if has(PAYLOAD) {
        let len = reader.u32("payload length")? as usize;
        Some(Bytes::copy_from_slice(reader.bytes(len, "payload")?))
    } else {
        None
    };
    let metadata = if has(METADATA) { Some(read_pairs(&mut reader)?) } else { None };
    reader.end("bytes behind an update")?;
    Ok(UpdateTask { target, due, priority, payload, metadata })
}

fn read_pairs(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>, Malformed> {
    let count = reader.u32("metadata pairs")? as usize;
    // Each pair has at least its two lengths: a count the bytes cannot hold sizes no allocation.
    if count > reader.len() / 8 {
        return Err(Malformed("pair count exceeds its bytes"));
    }
    let mut pair = || Ok((reader.long_text("key")?.to_owned(), reader.long_text("value")?.to_owned()));
    (0..count).map(|_| pair()).collect()
}
