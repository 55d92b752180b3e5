//! Values of the meta row and the queue records, each written once per applied entry at most.

use z4_types::{Millis, QueueName, Token};

use crate::codec::{Malformed, Reader, put_u32, put_u64};
use crate::fair::Bucket;
use crate::stats::QueueStats;

const META_VERSION: u8 = 1;
const QUEUE_VERSION: u8 = 3;

/// Counters of a record of version 1.
const COUNTERS_V1: usize = 11;

/// The meta row: what the shard counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Shard time: the largest `now` of any applied entry. Invariant: never decreases.
    pub(crate) now: Millis,
    /// Invariant: above the number of every queue that ever was; numbers without a record are free.
    pub(crate) next_queue: u32,
    /// Invariant: larger than the counter of every id given out.
    pub(crate) next_counter: u64,
    /// Invariant: larger than every token given out. The first token is 1, so that 0 never names a lease.
    pub(crate) next_token: u64,
}

impl Meta {
    /// The meta row of a shard before its first entry.
    pub(crate) const NEW: Self = Self { now: Millis(0), next_queue: 0, next_counter: 1, next_token: 1 };

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(META_VERSION);
        put_u64(out, self.now.0);
        put_u32(out, self.next_queue);
        put_u64(out, self.next_counter);
        put_u64(out, self.next_token);
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u8("meta version")? != META_VERSION {
            return Err(Malformed("unknown meta version"));
        }
        let meta = Self {
            now: Millis(reader.u64("meta now")?),
            next_queue: reader.u32("meta next queue")?,
            next_counter: reader.u64("meta next counter")?,
            next_token: reader.u64("meta next token")?,
        };
        reader.end("bytes behind the meta row")?;
        Ok(meta)
    }
}

/// How many waiting tasks were due when, but for those in step rows (`steps`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The step that `current` counts. Invariant: not after shard time's.
    pub(crate) step: u64,
    /// Tasks of earlier steps.
    pub(crate) passed: u64,
    /// Tasks of that step.
    pub(crate) current: u64,
}

/// What a queue has used of its limits, and what its circuit breaker has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// Its token bucket.
    pub(crate) bucket: Bucket,
    /// When the window began that the next two count in.
    pub(crate) window: Millis,
    /// Deliveries that ended in the window, well or not.
    pub(crate) ended: u32,
    /// Those that failed.
    pub(crate) failed: u32,
    /// The lease that tries whether deliveries succeed again; 0: none.
    pub(crate) probe: Token,
}

/// A queue record, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueRecord {
    pub(crate) name: QueueName,
    pub(crate) stats: QueueStats,
    /// None: of version 1, which did not count by due time.
    pub(crate) counted: Option<Counted>,
    /// Tasks that wait without a group, by priority, ascending; only priorities that have any.
    pub(crate) lines: Vec<(u8, u64)>,
    /// Tasks that wait in groups, as `lines`.
    pub(crate) grouped: Vec<(u8, u64)>,
    pub(crate) served: Served,
}

impl QueueRecord {
    /// Appends a record's value; `lines` may hold empty ones, which are left out.
    pub(crate) fn write(
        name: &QueueName,
        stats: &QueueStats,
        counted: Counted,
        lines: impl Iterator<Item = (u8, u64)> + Clone,
        grouped: impl Iterator<Item = (u8, u64)> + Clone,
        served: &Served,
        out: &mut Vec<u8>,
    ) {
        out.push(QUEUE_VERSION);
        let name = name.as_str();
        out.push(u8::try_from(name.len()).expect("a queue name has at most 255 bytes"));
        out.extend_from_slice(name.as_bytes());
        out.push(QueueStats::COUNTERS as u8);
        for counter in stats.counters() {
            put_u64(out, counter);
        }
        put_u64(out, counted.step);
        put_u64(out, counted.passed);
        put_u64(out, counted.current);
        write_lines(lines, out);
        write_lines(grouped, out);
        put_u64(out, served.bucket.full_at);
        put_u64(out, served.window.0);
        put_u32(out, served.ended);
        put_u32(out, served.failed);
        put_u64(out, served.probe.0);
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let version = reader.u8("queue version")?;
        if !(1..=QUEUE_VERSION).contains(&version) {
            return Err(Malformed("unknown queue version"));
        }
        let len = reader.u8("queue name length")?;
        let name =
            QueueName::new(reader.text(len.into(), "queue name")?).map_err(|_| Malformed("queue name"))?;
        let known = if version == 1 { COUNTERS_V1 } else { reader.u8("queue counters")?.into() };
        let mut counters = [0; QueueStats::COUNTERS];
        let used = counters.get_mut(..known).ok_or(Malformed("more queue counters than are known"))?;
        for counter in used {
            *counter = reader.u64("queue counter")?;
        }
        let counted = if version == 1 {
            None
        } else {
            Some(Counted {
                step: reader.u64("queue step")?,
                passed: reader.u64("tasks of passed steps")?,
                current: reader.u64("tasks of the step")?,
            })
        };
        let lines = read_lines(&mut reader)?;
        let (mut grouped, mut served) = (Vec::new(), Served::default());
        if version > 2 {
            grouped = read_lines(&mut reader)?;
            served = Served {
                bucket: Bucket { full_at: reader.u64("queue bucket")? },
                window: Millis(reader.u64("breaker window")?),
                ended: reader.u32("breaker deliveries")?,
                failed: reader.u32("breaker failures")?,
                probe: Token(reader.u64("breaker probe")?),
            };
        }
        reader.end("bytes behind a queue record")?;
        Ok(Self { name, stats: QueueStats::from_counters(counters), counted, lines, grouped, served })
    }
}

fn write_lines(lines: impl Iterator<Item = (u8, u64)> + Clone, out: &mut Vec<u8>) {
    let used = lines.filter(|(_, waiting)| *waiting > 0);
    let count = u16::try_from(used.clone().count()).expect("there are 256 priorities");
    out.extend_from_slice(&count.to_le_bytes());
    for (priority, waiting) in used {
        out.push(priority);
        put_u64(out, waiting);
    }
}

fn read_lines(reader: &mut Reader<'_>) -> Result<Vec<(u8, u64)>, Malformed> {
    let count = reader.u16("queue lines")?;
    let mut lines = Vec::with_capacity(usize::from(count).min(256));
    for _ in 0..count {
        lines.push((reader.u8("line priority")?, reader.u64("line count")?));
    }
    Ok(lines)
}

/// Reads the value of a name row.
pub(crate) fn read_queue_id(value: &[u8]) -> Result<u32, Malformed> {
    Reader::new(value).u32("queue number")
}
