//! Commands about schedules, and the checks they pass before they are encoded.

use z4_types::limits::{
    CATCH_UP_MS_MAX, CATCH_UP_MS_MIN, CRON_BYTES_MAX, JITTER_MS_MAX, METADATA_BYTES_MAX, METADATA_KEYS_MAX,
    SCHEDULE_NAME_BYTES_MAX, ZONE_NAME_BYTES_MAX,
};
use z4_types::{Duration, Millis, QueueName, RequestId};

use super::check::{Invalid, invalid};
use super::{Due, SetMode};
use crate::schedule::Schedule;

/// Metadata key under which a task says its schedule's name.
pub const SCHEDULE_KEY: &str = "z4.schedule";
/// Metadata key under which a task says its slot, RFC 3339 in UTC.
pub const SLOT_KEY: &str = "z4.slot";
/// Keys that begin so are z4's.
const OWN_PREFIX: &str = "z4.";
/// Pairs that a task gets beside its template's.
const OWN_PAIRS: usize = 2;
/// And their bytes: both keys, the longest name, the longest time.
const OWN_BYTES: usize = SCHEDULE_KEY.len() + SLOT_KEY.len() + SCHEDULE_NAME_BYTES_MAX + 24;

/// Makes a schedule or changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSchedule {
    /// The queue, which a new schedule makes if it is not there.
    pub queue: QueueName,
    /// The schedule.
    pub name: String,
    /// What must be there.
    pub mode: SetMode,
    /// Refused unless the schedule has this etag; 0 is that of none.
    pub etag: Option<u64>,
    /// Refused unless it waits for this slot: `next` was worked out from it.
    pub seen: Option<Millis>,
    /// What it does from now on.
    pub schedule: Schedule,
    /// Its next slot by that, as the leader worked it out; None: it has none, or the schedule is paused.
    pub next: Option<Millis>,
}

/// Stops a schedule or resumes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseSchedule {
    /// The queue.
    pub queue: QueueName,
    /// The schedule.
    pub name: String,
    /// Refused unless the schedule has this etag.
    pub etag: Option<u64>,
    /// False: resume, which forgets note and author.
    pub paused: bool,
    /// Why; cut at `NOTE_BYTES_MAX`.
    pub note: String,
    /// Who; cut at `NOTE_BYTES_MAX`.
    pub author: String,
    /// Resumed, it waits for this slot; None: it has none any more.
    pub next: Option<Millis>,
}

/// Makes a schedule's task at once, outside of its slots, whether or not it is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSchedule {
    /// The queue.
    pub queue: QueueName,
    /// The schedule.
    pub name: String,
    /// Names this run across retries; also against creates, which bear such ids too.
    pub request: Option<RequestId>,
}

/// What is proposed of a slot whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firing {
    /// It makes its task.
    Slot {
        /// When the task is due: the slot and its jitter.
        due: Millis,
        /// The slot after it; None: there is none.
        next: Option<Millis>,
    },
    /// It is older than the catch-up window, and so are those up to `last`.
    Late {
        /// How many slots that are, this one among them.
        slots: u64,
        /// The last of them.
        last: Millis,
        /// The slot after that.
        next: Option<Millis>,
    },
    /// It was remembered, and what it waited for has ended.
    Buffered {
        /// When the task is due.
        due: Millis,
    },
}

/// Lets a slot of a schedule happen, if it is the one that the schedule waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    /// The queue.
    pub queue: QueueName,
    /// The schedule.
    pub name: String,
    /// The etag by which this was worked out.
    pub etag: u64,
    /// The slot.
    pub slot: Millis,
    /// What becomes of it.
    pub firing: Firing,
}

impl SetSchedule {
    /// Checks the schedule against every limit, but for expression and zone, which `z4-cron` reads.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.mode == SetMode::Create && self.etag.is_some() {
            return invalid(
                "etag",
                "names a version of a schedule that is to be created; leave it out".into(),
            );
        }
        check_schedule_name(&self.name)?;
        self.schedule.check()
    }
}

/// Checks the name of a schedule.
///
/// # Errors
/// `Invalid`, with the field `name` and the remedy.
pub fn check_schedule_name(name: &str) -> Result<(), Invalid> {
    if name.is_empty() {
        return invalid("name", "is empty; give the schedule a name, such as nightly-report".into());
    }
    if name.len() > SCHEDULE_NAME_BYTES_MAX {
        let bytes = name.len();
        return invalid(
            "name",
            format!("has {bytes} bytes, the limit is {SCHEDULE_NAME_BYTES_MAX}; shorten it"),
        );
    }
    if let Some((at, c)) = name.char_indices().find(|(_, c)| c.is_control()) {
        let code = u32::from(c);
        return invalid(
            "name",
            format!("has the control character U+{code:04X} at byte {at}; use printable characters only"),
        );
    }
    Ok(())
}

impl Schedule {
    fn check(&self) -> Result<(), Invalid> {
        check_text("cron", &self.cron, CRON_BYTES_MAX)?;
        check_text("zone", &self.zone, ZONE_NAME_BYTES_MAX)?;
        check_between("catch_up", self.catch_up, CATCH_UP_MS_MIN, CATCH_UP_MS_MAX)?;
        check_between("jitter", self.jitter, 0, JITTER_MS_MAX)?;
        if let Some(start) = self.start.filter(|start| *start > Millis::MAX_NAMEABLE) {
            return invalid("start", format!("{start} lies after the year 9999; give an earlier time"));
        }
        if let (Some(start), Some(end)) = (self.start, self.end)
            && end < start
        {
            let (start, end) = (start.rfc3339(), end.rfc3339());
            return invalid("end", format!("{end} lies before the start, {start}; give a later one"));
        }
        let template = &self.template;
        if template.due != Due::Now {
            return invalid(
                "task.deliver_at",
                "is set, but a slot says when its task is due; leave it out".into(),
            );
        }
        if template.request.is_some() {
            return invalid(
                "task.request_id",
                "is set, but every slot makes a task of its own; leave it out".into(),
            );
        }
        if template.key.is_some() {
            return invalid(
                "task.key",
                "is set, but a schedule's overlap policy says what happens while its last task is open; leave it out"
                    .into(),
            );
        }
        if !template.after.is_empty() {
            let problem = "is set, but the tasks of a schedule come after its slots; leave it out";
            return invalid("task.after", problem.into());
        }
        template.check()?;
        self.check_metadata()
    }

    /// Checks that there is room for what a task is told of its slot.
    fn check_metadata(&self) -> Result<(), Invalid> {
        let metadata = &self.template.metadata;
        if let Some((key, _)) = metadata.iter().find(|(key, _)| key.starts_with(OWN_PREFIX)) {
            return invalid(
                "task.metadata",
                format!("has the key {key:?}; keys that begin with {OWN_PREFIX} are set by z4, name another"),
            );
        }
        if metadata.len() + OWN_PAIRS > METADATA_KEYS_MAX {
            let most = METADATA_KEYS_MAX - OWN_PAIRS;
            let keys = metadata.len();
            return invalid(
                "task.metadata",
                format!(
                    "has {keys} keys; a schedule's task may have {most}, {SCHEDULE_KEY} and {SLOT_KEY} join them"
                ),
            );
        }
        let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes + OWN_BYTES > METADATA_BYTES_MAX {
            let most = METADATA_BYTES_MAX - OWN_BYTES;
            return invalid(
                "task.metadata",
                format!(
                    "has {bytes} bytes; a schedule's task may have {most}, {SCHEDULE_KEY} and {SLOT_KEY} join them"
                ),
            );
        }
        Ok(())
    }
}

fn check_text(field: &'static str, text: &str, max: usize) -> Result<(), Invalid> {
    if text.is_empty() {
        return invalid(field, "is empty; give one, such as `0 9 * * MON-FRI` in Europe/Berlin".into());
    }
    if text.len() > max {
        return invalid(field, format!("has {} bytes, the limit is {max}; shorten it", text.len()));
    }
    Ok(())
}

fn check_between(field: &'static str, span: Duration, min: u64, max: u64) -> Result<(), Invalid> {
    if (min..=max).contains(&span.0) {
        return Ok(());
    }
    let seconds = |ms| ms / 1_000;
    invalid(field, format!("of {span} is out of range; give {} to {} seconds", seconds(min), seconds(max)))
}
