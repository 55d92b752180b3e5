//! Keys of the rows of schedules.

use z4_types::{Millis, TaskId};

use super::take;
use crate::codec::Malformed;

/// How many schedules there are.
pub(crate) const SCHEDULES: [u8; 1] = *b"s";
/// First key of the slots that are waited for, and the first key behind them.
pub(crate) const SLOTS: [&[u8]; 2] = [b"t\0", b"t\x01"];
/// First key of the tasks whose end is waited for, and the first key behind them.
pub(crate) const WATCHES: [&[u8]; 2] = [b"t\x01", b"t\x02"];

/// Why a slot has a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Waits {
    /// It was remembered, and the task it waited for has ended: before a slot of the same time.
    Released = 0,
    /// It is the schedule's next one.
    Next = 1,
}

/// The row of what a schedule does.
pub(crate) fn schedule_of(queue: u32, name: &str) -> Vec<u8> {
    [b"s", &queue.to_be_bytes()[..], name.as_bytes()].concat()
}

/// Returns the first key of all schedules of a queue, and the first key behind them.
pub(crate) fn schedules_of(queue: u32) -> [Vec<u8>; 2] {
    [schedule_of(queue, ""), schedule_of(queue + 1, "")]
}

/// Reads queue and name of a schedule's key.
pub(crate) fn read_schedule_of(key: &[u8]) -> Result<(u32, &str), Malformed> {
    Ok((u32::from_be_bytes(take(key, 1)?), text(key, 5)?))
}

/// The row of how far a schedule is. The rows of its history follow it.
pub(crate) fn progress(queue: u32, name: &str) -> Vec<u8> {
    let len = u8::try_from(name.len()).expect("a schedule's name has at most 255 bytes");
    [b"h", &queue.to_be_bytes()[..], &[len], name.as_bytes()].concat()
}

/// A row of a schedule's history.
pub(crate) fn history(queue: u32, name: &str, number: u64) -> Vec<u8> {
    let mut key = progress(queue, name);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Reads queue, name and number of a key of a history; no number: how far the schedule is.
pub(crate) fn read_history(key: &[u8]) -> Result<(u32, &str, Option<u64>), Malformed> {
    let queue = u32::from_be_bytes(take(key, 1)?);
    let end = 6 + usize::from(take::<1>(key, 5)?[0]);
    let name = key.get(..end).ok_or(Malformed("history key"))?;
    let number = match key.len() - end {
        0 => None,
        8 => Some(u64::from_be_bytes(take(key, end)?)),
        _ => return Err(Malformed("history key")),
    };
    Ok((queue, text(name, 6)?, number))
}

/// The row of a slot that is waited for.
pub(crate) fn slot(at: Millis, queue: u32, waits: Waits, name: &str) -> Vec<u8> {
    [b"t\0", &at.0.to_be_bytes()[..], &queue.to_be_bytes(), &[waits as u8], name.as_bytes()].concat()
}

/// Returns a key at or below the row of any slot at `at`.
pub(crate) fn slots_from(at: Millis) -> [u8; 10] {
    let mut key = [0; 10];
    key[0] = b't';
    key[2..].copy_from_slice(&at.0.to_be_bytes());
    key
}

/// Reads the fields of a slot's key.
pub(crate) fn read_slot(key: &[u8]) -> Result<(Millis, u32, Waits, &str), Malformed> {
    let waits = match take::<1>(key, 14)? {
        [0] => Waits::Released,
        [1] => Waits::Next,
        _ => return Err(Malformed("unknown kind of slot")),
    };
    let at = Millis(u64::from_be_bytes(take(key, 2)?));
    Ok((at, u32::from_be_bytes(take(key, 10)?), waits, text(key, 15)?))
}

/// The row of a task whose end a schedule waits for.
pub(crate) fn watch(id: TaskId) -> [u8; 18] {
    let mut key = [0; 18];
    key[..2].copy_from_slice(WATCHES[0]);
    key[2..].copy_from_slice(&id.0.to_be_bytes());
    key
}

/// Reads the task of such a key.
pub(crate) fn read_watch(key: &[u8]) -> Result<TaskId, Malformed> {
    take(key, 2).map(u128::from_be_bytes).map(TaskId)
}

fn text(key: &[u8], from: usize) -> Result<&str, Malformed> {
    let bytes = key.get(from..).ok_or(Malformed("key is too short"))?;
    std::str::from_utf8(bytes).map_err(|_| Malformed("schedule name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_schedules_sort_by_their_fields_and_give_them_back() {
        let (early, late) = (Millis(7), Millis(256));
        assert!(slot(early, 9, Waits::Next, "z") < slot(late, 1, Waits::Released, "a"));
        assert!(slot(early, 1, Waits::Released, "z") < slot(early, 1, Waits::Next, "a"));
        assert!(slots_from(late)[..] < slot(late, 0, Waits::Released, "a")[..]);
        assert!(slot(early, u32::MAX, Waits::Next, "z")[..] < slots_from(late)[..]);
        assert_eq!(read_slot(&slot(late, 3, Waits::Next, "é")), Ok((late, 3, Waits::Next, "é")));
        assert!(schedule_of(1, "b") < schedule_of(2, "a"));
        assert!(SCHEDULES[..] < schedule_of(0, "a")[..]);
        assert_eq!(read_schedule_of(&schedule_of(2, "é")), Ok((2, "é")));
        // A name that begins another, and one that looks like a number, are told apart by the length.
        assert!(history(1, "a", u64::MAX) < progress(1, "ab"));
        assert_eq!(read_history(&progress(1, "abcdefghi")), Ok((1, "abcdefghi", None)));
        assert_eq!(read_history(&history(1, "é", 77)), Ok((1, "é", Some(77))));
        assert!(read_history(&progress(1, "abc")[..8]).is_err());
        assert_eq!(read_watch(&watch(TaskId(5))), Ok(TaskId(5)));
        assert!(slot(Millis::NEVER, u32::MAX, Waits::Next, "z") < watch(TaskId(0)).to_vec());
    }
}
