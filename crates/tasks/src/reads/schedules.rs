//! Reads of schedules: one, those of a queue, what became of the slots of one.

use z4_types::QueueName;
use z4_types::limits::SCHEDULE_HISTORY_MAX;

use super::{queue_number, queue_record};
use crate::rows::{Definition, Progress, key, read_fate};
use crate::schedule::{ScheduleInfo, SlotRecord};
use crate::slots::definition_row;
use crate::{Fault, Read};

/// A page of schedules ends after so many bytes of rows: payloads may be large.
const PAGE_BYTES: usize = 1 << 20;

/// Returns a schedule; None if there is none of this name.
///
/// # Errors
/// If storage fails.
pub fn schedule(store: &dyn Read, queue: &QueueName, name: &str) -> Result<Option<ScheduleInfo>, Fault> {
    let Some(number) = queue_number(store, queue)? else { return Ok(None) };
    if store.get(&key::progress(number, name))?.is_none() {
        return Ok(None);
    }
    describe(store, number, queue, name, &definition_row(store, number, name)?).map(Some)
}

/// Returns up to `limit` schedules of a queue by name, those after `after`; fewer if they are large, but at least one. None if
/// there is no such queue.
///
/// # Errors
/// If storage fails.
pub fn schedules(
    store: &dyn Read,
    queue: &QueueName,
    after: Option<&str>,
    limit: usize,
) -> Result<Option<Vec<ScheduleInfo>>, Fault> {
    let Some(number) = queue_number(store, queue)? else { return Ok(None) };
    let queue = queue_record(store, number)?.name;
    let [mut from, to] = key::schedules_of(number);
    if let Some(after) = after {
        // The first key behind that name.
        from.extend_from_slice(after.as_bytes());
        from.push(0);
    }
    let (mut found, mut bytes, mut malformed) = (Vec::new(), 0, None);
    store.scan(&from, &to, &mut |key, value| {
        if found.len() >= limit || bytes >= PAGE_BYTES {
            return false;
        }
        bytes += value.len();
        match key::read_schedule_of(key) {
            Ok((_, name)) => found.push((name.to_owned(), value.to_vec())),
            Err(error) => malformed = Some(error),
        }
        malformed.is_none()
    })?;
    if let Some(error) = malformed {
        return Err(error.into());
    }
    let all = found.iter().map(|(name, value)| describe(store, number, &queue, name, value));
    all.collect::<Result<_, _>>().map(Some)
}

/// Returns what became of the last slots of a schedule, the latest first, up to `limit`: those before row `before`. None if
/// there is no such schedule.
///
/// # Errors
/// If storage fails.
pub fn schedule_history(
    store: &dyn Read,
    queue: &QueueName,
    name: &str,
    before: Option<u64>,
    limit: usize,
) -> Result<Option<Vec<SlotRecord>>, Fault> {
    let Some(number) = queue_number(store, queue)? else { return Ok(None) };
    let Some(value) = store.get(&key::progress(number, name))? else { return Ok(None) };
    let rows = Progress::read(&value)?.rows;
    let first = rows.saturating_sub(SCHEDULE_HISTORY_MAX);
    let end = before.map_or(rows, |before| before.clamp(first, rows));
    let from = end.saturating_sub(limit as u64).max(first);
    let (mut found, mut malformed) = (Vec::new(), None);
    store.scan(&key::history(number, name, from), &key::history(number, name, end), &mut |key, value| {
        let row = key::read_history(key).and_then(|(.., row)| read_fate(row.unwrap_or_default(), value));
        match row {
            Ok(row) => found.push(row),
            Err(error) => malformed = Some(error),
        }
        malformed.is_none()
    })?;
    found.reverse();
    malformed.map_or(Ok(Some(found)), |error| Err(error.into()))
}

/// Puts a schedule's rows together.
fn describe(
    store: &dyn Read,
    number: u32,
    queue: &QueueName,
    name: &str,
    definition: &[u8],
) -> Result<ScheduleInfo, Fault> {
    let Definition { etag, created_at, paused, schedule } = Definition::read(definition)?;
    let lost = || Fault::corrupt(format!("schedule {name} of queue {queue} lost its progress"));
    let value = store.get(&key::progress(number, name))?.ok_or_else(lost)?;
    let Progress { next, buffered, last, counts, .. } = Progress::read(&value)?;
    Ok(ScheduleInfo {
        queue: queue.clone(),
        name: name.to_owned(),
        schedule: schedule.to_schedule(),
        etag,
        created_at,
        paused,
        next,
        buffered,
        last,
        counts,
    })
}
