//! Keys: a letter, then big-endian fields, so that rows sort by what they are looked up and scanned by.
//!
//! Each index key has a constructor and, where scans need it, a reader of its fields.

mod schedule;

pub(crate) use schedule::{
    SCHEDULES, SLOTS, WATCHES, Waits, history, progress, read_history, read_schedule_of, read_slot,
    read_watch, schedule_of, schedules_of, slot, slots_from, watch,
};

use z4_types::{Millis, RequestId, TaskId, Token};

use crate::codec::Malformed;

/// The meta row.
pub(crate) const META: [u8; 1] = *b"M";
/// The policies row.
pub(crate) const POLICIES: [u8; 1] = *b"O";
/// First key of the queues' configs, and the first key behind them.
pub(crate) const CONFIGS: [&[u8]; 2] = [b"C", b"D"];
/// First key of the queue records, and the first key behind them.
pub(crate) const QUEUES: [&[u8]; 2] = [b"Q", b"R"];
/// First key of the names, and the first key behind them.
pub(crate) const NAMES: [&[u8]; 2] = [b"N", b"O"];
/// First key of the leases, and the first key behind them.
pub(crate) const LEASES: [&[u8]; 2] = [b"L", b"M"];
/// First key of the group rows, and the first key behind them.
pub(crate) const GROUPS: [&[u8]; 2] = [b"G", b"H"];
/// First key of the rows of groups with limits of their own, and the first key behind them.
pub(crate) const GROUP_SETTINGS: [&[u8]; 2] = [b"I", b"J"];
/// First key of the queues' streams, and the first key behind them.
pub(crate) const STREAMS: [&[u8]; 2] = [b"V\0", b"V\x01"];
/// First key of the closed streams, and the first key behind them.
pub(crate) const REMAINS: [&[u8]; 2] = [b"V\x02", b"V\x03"];
/// First key behind the TTL rows.
pub(crate) const TTLS_END: &[u8] = b"Y";
/// First key of the endings, and the first key behind them.
pub(crate) const ENDINGS: [&[u8]; 2] = [b"Y", b"Z"];
/// First key behind the rows of keys' ends.
pub(crate) const KEY_ENDS_END: &[u8] = b"[";
/// First key behind the eviction rows.
pub(crate) const EVICTIONS_END: &[u8] = b"F";

/// Which create a request id names: a batch and a task may bear the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Batch = 0,
    Task = 1,
}

/// Builds a fixed-width key out of parts.
macro_rules! key {
    ($len:expr, $letter:literal $(, $part:expr)*) => {{
        let mut key = [0u8; $len];
        key[0] = $letter;
        let mut at = 1;
        $({
            let part = $part;
            key[at..at + part.len()].copy_from_slice(&part);
            at += part.len();
        })*
        debug_assert_eq!(at, $len, "the parts fill the key");
        key
    }};
}

fn take<const N: usize>(key: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    key.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Malformed("key is too short"))
}

pub(crate) fn name(name: &str) -> Vec<u8> {
    [b"N", name.as_bytes()].concat()
}

pub(crate) fn queue(queue: u32) -> [u8; 5] {
    key!(5, b'Q', queue.to_be_bytes())
}

/// Reads the number of a queue or config key.
pub(crate) fn read_queue(key: &[u8]) -> Result<u32, Malformed> {
    take(key, 1).map(u32::from_be_bytes)
}

pub(crate) fn config(queue: u32) -> [u8; 5] {
    key!(5, b'C', queue.to_be_bytes())
}

pub(crate) fn result(id: TaskId) -> [u8; 17] {
    key!(17, b'R', id.0.to_be_bytes())
}

pub(crate) fn stream(queue: u32) -> [u8; 6] {
    key!(6, b'V', [0], queue.to_be_bytes())
}

/// Reads the queue of a stream key.
pub(crate) fn read_stream(key: &[u8]) -> Result<u32, Malformed> {
    take(key, 2).map(u32::from_be_bytes)
}

pub(crate) fn event(stream: u64, sequence: u64) -> [u8; 18] {
    key!(18, b'V', [1], stream.to_be_bytes(), sequence.to_be_bytes())
}

/// Reads stream and sequence of an event key.
pub(crate) fn read_event(key: &[u8]) -> Result<(u64, u64), Malformed> {
    Ok((u64::from_be_bytes(take(key, 2)?), u64::from_be_bytes(take(key, 10)?)))
}

pub(crate) fn remains(stream: u64) -> [u8; 10] {
    key!(10, b'V', [2], stream.to_be_bytes())
}

/// Reads the stream of the key of a closed one.
pub(crate) fn read_remains(key: &[u8]) -> Result<u64, Malformed> {
    take(key, 2).map(u64::from_be_bytes)
}

pub(crate) fn step(queue: u32, step: u64) -> [u8; 13] {
    key!(13, b'W', queue.to_be_bytes(), step.to_be_bytes())
}

/// Reads the step of a step key.
pub(crate) fn read_step(key: &[u8]) -> Result<u64, Malformed> {
    take(key, 5).map(u64::from_be_bytes)
}

pub(crate) fn finished(queue: u32, ended_at: Millis, id: TaskId) -> [u8; 29] {
    key!(29, b'H', queue.to_be_bytes(), ended_at.0.to_be_bytes(), id.0.to_be_bytes())
}

/// Returns the first key behind all finished rows of a queue.
pub(crate) fn finished_end(queue: u32) -> [u8; 29] {
    // Nothing ends at the end of time, so this key is never a row.
    finished(queue, Millis::NEVER, TaskId(u128::MAX))
}

pub(crate) fn body(id: TaskId) -> [u8; 17] {
    key!(17, b'B', id.0.to_be_bytes())
}

pub(crate) fn state(id: TaskId) -> [u8; 17] {
    key!(17, b'T', id.0.to_be_bytes())
}

/// Reads the id of a body or state key.
pub(crate) fn read_id(key: &[u8]) -> Result<TaskId, Malformed> {
    take(key, 1).map(u128::from_be_bytes).map(TaskId)
}

pub(crate) fn schedule(queue: u32, priority: u8, deliver_at: Millis, id: TaskId) -> [u8; 30] {
    key!(30, b'S', queue.to_be_bytes(), [priority], deliver_at.0.to_be_bytes(), id.0.to_be_bytes())
}

/// Returns the first key behind all schedule rows of a line.
pub(crate) fn schedule_end(queue: u32, priority: u8) -> [u8; 30] {
    // Nothing is due at the end of time, so this key is never a row.
    schedule(queue, priority, Millis::NEVER, TaskId(u128::MAX))
}

/// Reads deliver_at and id of a schedule key.
pub(crate) fn read_schedule(key: &[u8]) -> Result<(Millis, TaskId), Malformed> {
    Ok((Millis(u64::from_be_bytes(take(key, 6)?)), TaskId(u128::from_be_bytes(take(key, 14)?))))
}

/// The row of a task that waits in a group.
pub(crate) fn in_group(queue: u32, group: u32, priority: u8, deliver_at: Millis, id: TaskId) -> [u8; 34] {
    key!(
        34,
        b'F',
        queue.to_be_bytes(),
        group.to_be_bytes(),
        [priority],
        deliver_at.0.to_be_bytes(),
        id.0.to_be_bytes()
    )
}

/// Returns the first key behind all rows of a line of a group.
pub(crate) fn in_group_end(queue: u32, group: u32, priority: u8) -> [u8; 34] {
    // Nothing is due at the end of time, so this key is never a row.
    in_group(queue, group, priority, Millis::NEVER, TaskId(u128::MAX))
}

/// Reads deliver_at and id of the row of a task that waits in a group.
pub(crate) fn read_in_group(key: &[u8]) -> Result<(Millis, TaskId), Malformed> {
    Ok((Millis(u64::from_be_bytes(take(key, 10)?)), TaskId(u128::from_be_bytes(take(key, 18)?))))
}

/// The row by due time of a task that waits in a group.
pub(crate) fn timed(queue: u32, deliver_at: Millis, id: TaskId) -> [u8; 29] {
    key!(29, b'U', queue.to_be_bytes(), deliver_at.0.to_be_bytes(), id.0.to_be_bytes())
}

/// Returns the first key behind all rows by due time of a queue.
pub(crate) fn timed_end(queue: u32) -> [u8; 29] {
    timed(queue, Millis::NEVER, TaskId(u128::MAX))
}

/// Reads deliver_at and id of a key by due time.
pub(crate) fn read_timed(key: &[u8]) -> Result<(Millis, TaskId), Malformed> {
    // Laid out like the dead.
    read_dead(key)
}

pub(crate) fn group(queue: u32, number: u32) -> [u8; 9] {
    key!(9, b'G', queue.to_be_bytes(), number.to_be_bytes())
}

/// Reads queue and number of a group key.
pub(crate) fn read_group(key: &[u8]) -> Result<(u32, u32), Malformed> {
    Ok((u32::from_be_bytes(take(key, 1)?), u32::from_be_bytes(take(key, 5)?)))
}

pub(crate) fn group_settings(queue: u32, group: &str) -> Vec<u8> {
    [b"I", &queue.to_be_bytes()[..], group.as_bytes()].concat()
}

/// Reads queue and name of the key of a group's own limits.
pub(crate) fn read_group_settings(key: &[u8]) -> Result<(u32, &str), Malformed> {
    let queue = u32::from_be_bytes(take(key, 1)?);
    let name = std::str::from_utf8(&key[5..]).map_err(|_| Malformed("group name"))?;
    Ok((queue, name))
}

pub(crate) fn lease(until: Millis, token: Token) -> [u8; 17] {
    key!(17, b'L', until.0.to_be_bytes(), token.0.to_be_bytes())
}

/// Reads until and token of a lease key.
pub(crate) fn read_lease(key: &[u8]) -> Result<(Millis, Token), Malformed> {
    Ok((Millis(u64::from_be_bytes(take(key, 1)?)), Token(u64::from_be_bytes(take(key, 9)?))))
}

pub(crate) fn ttl(ttl_at: Millis, id: TaskId) -> [u8; 25] {
    key!(25, b'X', ttl_at.0.to_be_bytes(), id.0.to_be_bytes())
}

/// Reads ttl_at and id of a TTL key.
pub(crate) fn read_ttl(key: &[u8]) -> Result<(Millis, TaskId), Malformed> {
    Ok((Millis(u64::from_be_bytes(take(key, 1)?)), TaskId(u128::from_be_bytes(take(key, 9)?))))
}

pub(crate) fn dead(queue: u32, deliver_at: Millis, id: TaskId) -> [u8; 29] {
    key!(29, b'D', queue.to_be_bytes(), deliver_at.0.to_be_bytes(), id.0.to_be_bytes())
}

/// Reads deliver_at and id of a dead key.
pub(crate) fn read_dead(key: &[u8]) -> Result<(Millis, TaskId), Malformed> {
    Ok((Millis(u64::from_be_bytes(take(key, 5)?)), TaskId(u128::from_be_bytes(take(key, 13)?))))
}

/// Reads ended_at and id of a finished key.
pub(crate) fn read_finished(key: &[u8]) -> Result<(Millis, TaskId), Malformed> {
    // Laid out like the dead.
    read_dead(key)
}

pub(crate) fn task_key(queue: u32, key: &str) -> Vec<u8> {
    [&b"K"[..], &queue.to_be_bytes(), key.as_bytes()].concat()
}

/// Reads the key of the key row of a task's key.
pub(crate) fn read_task_key(key: &[u8]) -> Result<&str, Malformed> {
    let name = key.get(5..).ok_or(Malformed("key is too short"))?;
    std::str::from_utf8(name).map_err(|_| Malformed("key row"))
}

pub(crate) fn key_end(until: Millis, id: TaskId) -> [u8; 25] {
    key!(25, b'Z', until.0.to_be_bytes(), id.0.to_be_bytes())
}

/// Reads until and id of the row of a key's end.
pub(crate) fn read_key_end(key: &[u8]) -> Result<(Millis, TaskId), Malformed> {
    // Laid out like TTLs.
    read_ttl(key)
}

pub(crate) fn blocked(queue: u32, deliver_at: Millis, id: TaskId) -> [u8; 29] {
    key!(29, b'J', queue.to_be_bytes(), deliver_at.0.to_be_bytes(), id.0.to_be_bytes())
}

/// Reads deliver_at and id of the key of a blocked task.
pub(crate) fn read_blocked(key: &[u8]) -> Result<(Millis, TaskId), Malformed> {
    // Laid out like the dead.
    read_dead(key)
}

/// The row that says that one task comes after another.
pub(crate) fn edge(predecessor: TaskId, successor: TaskId) -> [u8; 33] {
    key!(33, b'A', predecessor.0.to_be_bytes(), successor.0.to_be_bytes())
}

/// Returns the first key of the edges of a predecessor, and the first key behind them.
pub(crate) fn edges(predecessor: TaskId) -> ([u8; 33], [u8; 33]) {
    // No shard counts up to the last id, so neither key is a row.
    (edge(predecessor, TaskId(0)), edge(predecessor, TaskId(u128::MAX)))
}

/// Reads predecessor and successor of an edge's key.
pub(crate) fn read_edge(key: &[u8]) -> Result<(TaskId, TaskId), Malformed> {
    Ok((TaskId(u128::from_be_bytes(take(key, 1)?)), TaskId(u128::from_be_bytes(take(key, 17)?))))
}

pub(crate) fn ending(predecessor: TaskId, bound: TaskId) -> [u8; 33] {
    key!(33, b'Y', predecessor.0.to_be_bytes(), bound.0.to_be_bytes())
}

/// Reads predecessor and bound of an ending's key.
pub(crate) fn read_ending(key: &[u8]) -> Result<(TaskId, TaskId), Malformed> {
    // Laid out like an edge.
    read_edge(key)
}

pub(crate) fn request(scope: Scope, request: RequestId) -> [u8; 18] {
    key!(18, b'P', [scope as u8], request.0.to_be_bytes())
}

pub(crate) fn eviction(at: Millis, request: RequestId, scope: Scope) -> [u8; 26] {
    key!(26, b'E', at.0.to_be_bytes(), request.0.to_be_bytes(), [scope as u8])
}

/// Reads the fields of an eviction key.
pub(crate) fn read_eviction(key: &[u8]) -> Result<(Millis, RequestId, Scope), Malformed> {
    let scope = match take::<1>(key, 25)? {
        [0] => Scope::Batch,
        [1] => Scope::Task,
        _ => return Err(Malformed("unknown request scope")),
    };
    Ok((Millis(u64::from_be_bytes(take(key, 1)?)), RequestId(u128::from_be_bytes(take(key, 9)?)), scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_their_fields_and_give_them_back() {
        let (early, late) = (Millis(7), Millis(256));
        let (a, b) = (TaskId(255), TaskId(256));
        assert!(schedule(1, 0, late, a) < schedule(1, 1, early, a));
        assert!(schedule(1, 1, early, b) < schedule(1, 1, late, a));
        assert!(schedule(1, 1, early, a) < schedule(1, 1, early, b));
        assert!(schedule(1, 255, Millis::MAX_NAMEABLE, b) < schedule_end(1, 255));
        assert!(schedule_end(1, 0) < schedule(1, 1, Millis(0), TaskId(0)));
        assert_eq!(read_schedule(&schedule(1, 2, late, b)), Ok((late, b)));
        assert!(in_group(1, 2, 3, early, b) < in_group(1, 2, 3, late, a));
        assert!(in_group(1, 2, 255, Millis::MAX_NAMEABLE, b) < in_group_end(1, 2, 255));
        assert!(in_group_end(1, 2, 255) < in_group(1, 3, 0, early, a));
        assert_eq!(read_in_group(&in_group(1, 2, 3, late, b)), Ok((late, b)));
        assert_eq!(read_timed(&timed(1, late, b)), Ok((late, b)));
        assert_eq!(read_group(&group(7, 8)), Ok((7, 8)));
        assert!(event(1, u64::MAX) < event(2, 0));
        assert_eq!(read_event(&event(7, 256)), Ok((7, 256)));
        assert_eq!((read_stream(&stream(9)), read_remains(&remains(10))), (Ok(9), Ok(10)));
        assert_eq!(read_group_settings(&group_settings(7, "é")), Ok((7, "é")));
        assert_eq!(read_dead(&dead(9, late, b)), Ok((late, b)));
        assert_eq!(read_ttl(&ttl(late, b)), Ok((late, b)));
        assert_eq!(read_lease(&lease(late, Token(9))), Ok((late, Token(9))));
        let gone = eviction(late, RequestId(5), Scope::Task);
        assert_eq!(read_eviction(&gone), Ok((late, RequestId(5), Scope::Task)));
        assert_eq!(read_id(&body(b)), Ok(b));
        assert_eq!(read_blocked(&blocked(7, late, b)), Ok((late, b)));
        assert!(edges(a).0 < edge(a, b) && edge(a, b) < edges(a).1 && edges(a).1 < edge(b, a));
        assert_eq!(read_edge(&edge(a, b)), Ok((a, b)));
        assert_eq!(read_ending(&ending(a, b)), Ok((a, b)));
        assert!(read_schedule(b"S123").is_err());
    }
}
