//! The bytes of commands that act on whole queues. Rare and small, so they are read into values, not in place.

use z4_types::limits::NOTE_BYTES_MAX;
use z4_types::{QueueName, TaskId};

use super::put_queue;
use super::raw::{self, owned_queue, queue_name};
use super::reader::{Malformed, Reader, cut, put_long_text, put_u32, put_u64, put_u128};
use super::{put_group, read_group};
use crate::command::{Pause, Purge, PurgeCursor, PurgeStates, SetGroup, SetMode, SetQueue};
use crate::settings::{GroupPatch, Patch, Policies};

pub(super) fn put_etag(out: &mut Vec<u8>, etag: Option<u64>) {
    out.push(etag.is_some().into());
    if let Some(etag) = etag {
        put_u64(out, etag);
    }
}

pub(super) fn read_flag(reader: &mut Reader<'_>, what: &'static str) -> Result<bool, Malformed> {
    match reader.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed(what)),
    }
}

pub(super) fn read_etag(reader: &mut Reader<'_>) -> Result<Option<u64>, Malformed> {
    Ok(if read_flag(reader, "etag flags")? { Some(reader.u64("etag")?) } else { None })
}

pub(super) fn put_set(out: &mut Vec<u8>, set: &SetQueue) {
    out.push(raw::SET_QUEUE);
    put_queue(out, &set.queue);
    out.push(match set.mode {
        SetMode::Create => 1,
        SetMode::Update => 2,
        SetMode::Upsert => 3,
    });
    put_etag(out, set.etag);
    set.patch.put(out);
}

pub(super) fn read_set(mut reader: Reader<'_>) -> Result<SetQueue, Malformed> {
    let set = SetQueue {
        queue: owned_queue(queue_name(&mut reader)?),
        mode: match reader.u8("set mode")? {
            1 => SetMode::Create,
            2 => SetMode::Update,
            3 => SetMode::Upsert,
            _ => return Err(Malformed("unknown set mode")),
        },
        etag: read_etag(&mut reader)?,
        patch: Patch::read(&mut reader)?,
    };
    reader.end("bytes behind a set queue")?;
    Ok(set)
}

pub(super) fn put_set_group(out: &mut Vec<u8>, set: &SetGroup) {
    out.push(raw::SET_GROUP);
    put_queue(out, &set.queue);
    put_group(out, &set.group);
    set.patch.put(out);
}

pub(super) fn read_set_group(mut reader: Reader<'_>) -> Result<SetGroup, Malformed> {
    let set = SetGroup {
        queue: owned_queue(queue_name(&mut reader)?),
        group: read_group(&mut reader)?.to_owned(),
        patch: GroupPatch::read(&mut reader)?,
    };
    reader.end("bytes behind a set group")?;
    Ok(set)
}

pub(super) fn put_delete(out: &mut Vec<u8>, queue: &QueueName, etag: Option<u64>) {
    out.push(raw::DELETE_QUEUE);
    put_queue(out, queue);
    put_etag(out, etag);
}

pub(super) fn read_delete(mut reader: Reader<'_>) -> Result<(&str, Option<u64>), Malformed> {
    let delete = (queue_name(&mut reader)?, read_etag(&mut reader)?);
    reader.end("bytes behind a delete queue")?;
    Ok(delete)
}

pub(super) fn put_policies(out: &mut Vec<u8>, policies: &Policies) {
    out.push(raw::SET_POLICIES);
    policies.put(out);
}

pub(super) fn read_policies(mut reader: Reader<'_>) -> Result<Policies, Malformed> {
    let policies = Policies::read(&mut reader)?;
    reader.end("bytes behind policies")?;
    Ok(policies)
}

pub(super) fn put_pause(out: &mut Vec<u8>, pause: &Pause) {
    out.push(raw::PAUSE);
    put_queue(out, &pause.queue);
    out.push(pause.paused.into());
    put_long_text(out, cut(&pause.note, NOTE_BYTES_MAX));
    put_long_text(out, cut(&pause.author, NOTE_BYTES_MAX));
}

pub(super) fn read_pause(mut reader: Reader<'_>) -> Result<Pause, Malformed> {
    let pause = Pause {
        queue: owned_queue(queue_name(&mut reader)?),
        paused: read_flag(&mut reader, "paused")?,
        note: reader.long_text("note")?.to_owned(),
        author: reader.long_text("author")?.to_owned(),
    };
    reader.end("bytes behind a pause")?;
    Ok(pause)
}

pub(super) fn put_purge(out: &mut Vec<u8>, purge: &Purge) {
    out.push(raw::PURGE);
    put_queue(out, &purge.queue);
    out.push(purge.states.0);
    put_u128(out, purge.before.0);
    put_u32(out, purge.limit);
    out.push(purge.after.is_some().into());
    if let Some(PurgeCursor { state, key }) = &purge.after {
        out.push(*state);
        out.push(u8::try_from(key.len()).expect("the rest of a row's key, at most 25 bytes"));
        out.extend_from_slice(key);
    }
}

pub(super) fn read_purge(mut reader: Reader<'_>) -> Result<Purge, Malformed> {
    let queue = owned_queue(queue_name(&mut reader)?);
    let states = PurgeStates(reader.u8("purge states")?);
    let before = TaskId(reader.u128("purge before")?);
    let limit = reader.u32("purge limit")?;
    let after = if read_flag(&mut reader, "purge flags")? {
        let state = reader.u8("purge state")?;
        let len = reader.u8("purge key length")?;
        Some(PurgeCursor { state, key: reader.bytes(len.into(), "purge key")?.to_vec() })
    } else {
        None
    };
    reader.end("bytes behind a purge")?;
    Ok(Purge { queue, states, before, limit, after })
}
