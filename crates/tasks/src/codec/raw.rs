//! Commands read in place: the machine applies these views and allocates nothing for them.

use z4_types::{Duration, QueueName, RequestId, TaskId, Token};

use super::item::{ITEM_BYTES_MIN, Item};
use super::reader::{Malformed, Reader};
use bytes::Bytes;

use super::{queue, schedule, update};
use crate::command::{
    Command, Fire, Pause, PauseSchedule, Purge, RunSchedule, SetGroup, SetQueue, SetSchedule, Settlement,
    Target, UpdateTask, Verdict,
};
use crate::settings::Policies;

pub(super) const CREATE: u8 = 1;
pub(super) const LEASE: u8 = 2;
pub(super) const SETTLE: u8 = 3;
pub(super) const CANCEL: u8 = 4;
pub(super) const ADVANCE: u8 = 5;
pub(super) const SET_QUEUE: u8 = 6;
pub(super) const DELETE_QUEUE: u8 = 7;
pub(super) const SET_POLICIES: u8 = 8;
pub(super) const PAUSE: u8 = 9;
pub(super) const PURGE: u8 = 10;
pub(super) const CANCEL_IF: u8 = 11;
pub(super) const REDRIVE: u8 = 12;
pub(super) const UPDATE: u8 = 13;
pub(super) const RUN_NOW: u8 = 14;
pub(super) const SET_GROUP: u8 = 20;
pub(super) const SET_SCHEDULE: u8 = 21;
pub(super) const DELETE_SCHEDULE: u8 = 22;
pub(super) const PAUSE_SCHEDULE: u8 = 23;
pub(super) const RUN_SCHEDULE: u8 = 24;
pub(super) const FIRE: u8 = 25;

pub(super) const ACK: u8 = 1;
pub(super) const NACK: u8 = 2;
pub(super) const NACK_DELAY: u8 = 3;
pub(super) const RELEASE: u8 = 4;
pub(super) const EXTEND: u8 = 5;
pub(super) const ACK_WITH: u8 = 6;
pub(super) const EXTEND_WITH: u8 = 7;
pub(super) const NACK_DEAD: u8 = 8;
pub(super) const NACK_SLOW: u8 = 9;

/// Fewest bytes of a settlement: id, token, verdict.
const SETTLEMENT_BYTES_MIN: usize = 25;

/// A command whose lists are still bytes. The rare ones, which act on whole queues, are read into values.
#[derive(Debug, Clone)]
pub(crate) enum Raw<'a> {
    Create(RawCreate<'a>),
    Lease(RawLease<'a>),
    Settle(List<'a>),
    Cancel(List<'a>),
    Advance { limit: u32 },
    SetQueue(Box<SetQueue>),
    DeleteQueue { queue: &'a str, etag: Option<u64> },
    SetPolicies(Box<Policies>),
    Pause(Box<Pause>),
    Purge(Box<Purge>),
    CancelIf(List<'a>),
    Redrive(List<'a>),
    Update(Box<UpdateTask>),
    RunNow(List<'a>),
    SetGroup(Box<SetGroup>),
    SetSchedule(Box<SetSchedule>),
    DeleteSchedule { queue: &'a str, name: &'a str, etag: Option<u64> },
    PauseSchedule(Box<PauseSchedule>),
    RunSchedule(Box<RunSchedule>),
    Fire(Box<Fire>),
}

/// A create whose items are still bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawCreate<'a> {
    /// Valid as a queue name.
    pub(crate) queue: &'a str,
    pub(crate) request: Option<RequestId>,
    pub(crate) items: List<'a>,
}

/// A lease with borrowed names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawLease<'a> {
    /// Valid as a queue name.
    pub(crate) queue: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) max: u32,
    pub(crate) max_bytes: u64,
    pub(crate) ttl: Duration,
}

/// A settlement with a borrowed reason.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawSettlement<'a> {
    pub(crate) id: TaskId,
    pub(crate) token: Token,
    pub(crate) verdict: RawVerdict<'a>,
}

/// See [`Verdict`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum RawVerdict<'a> {
    Ack { result: Option<&'a [u8]> },
    Nack { delay: Option<Duration>, slow_group: Option<Duration>, reason: &'a str },
    NackDead { reason: &'a str },
    Release { delay: Duration },
    Extend { ttl: Duration, progress: Option<&'a str> },
}

/// A counted list whose elements are still bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List<'a> {
    left: u32,
    reader: Reader<'a>,
}

impl<'a> List<'a> {
    /// Reads the count; one that the bytes cannot hold is refused, so that it may size an allocation.
    fn read(mut reader: Reader<'a>, element_bytes_min: usize) -> Result<Self, Malformed> {
        let left = reader.u32("list count")?;
        if (left as usize).saturating_mul(element_bytes_min) > reader.len() {
            return Err(Malformed("list count exceeds its bytes"));
        }
        Ok(Self { left, reader })
    }

    /// Returns how many elements are left. Bounded by the bytes of the entry.
    pub(crate) fn len(&self) -> usize {
        self.left as usize
    }

    fn next<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.left == 0 {
            self.reader.end("bytes behind a list")?;
            return Ok(None);
        }
        self.left -= 1;
        read(&mut self.reader).map(Some)
    }

    pub(crate) fn next_item(&mut self) -> Result<Option<Item<'a>>, Malformed> {
        self.next(Item::read)
    }

    pub(crate) fn next_id(&mut self) -> Result<Option<TaskId>, Malformed> {
        self.next(|reader| reader.u128("task id").map(TaskId))
    }

    pub(crate) fn next_target(&mut self) -> Result<Option<Target>, Malformed> {
        self.next(update::read_target)
    }

    pub(crate) fn next_redrive(&mut self) -> Result<Option<(Target, Duration)>, Malformed> {
        self.next(|reader| Ok((update::read_target(reader)?, Duration(reader.u64("delay")?))))
    }

    pub(crate) fn next_settlement(&mut self) -> Result<Option<RawSettlement<'a>>, Malformed> {
        self.next(RawSettlement::read)
    }
}

impl<'a> RawSettlement<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let id = TaskId(reader.u128("task id")?);
        let token = Token(reader.u64("token")?);
        let verdict = match reader.u8("verdict")? {
            ACK => RawVerdict::Ack { result: None },
            ACK_WITH => {
                let len = reader.u32("result length")? as usize;
                RawVerdict::Ack { result: Some(reader.bytes(len, "result")?) }
            }
            NACK => RawVerdict::Nack { delay: None, slow_group: None, reason: reader.long_text("reason")? },
            NACK_DELAY => RawVerdict::Nack {
                delay: Some(Duration(reader.u64("delay")?)),
                slow_group: None,
                reason: reader.long_text("reason")?,
            },
            NACK_SLOW => {
                let slow_group = Some(Duration(reader.u64("slow group")?));
                let delay = match reader.u8("nack flags")? {
                    0 => None,
                    1 => Some(Duration(reader.u64("delay")?)),
                    _ => return Err(Malformed("unknown nack flags")),
                };
                RawVerdict::Nack { delay, slow_group, reason: reader.long_text("reason")? }
            }
            RELEASE => RawVerdict::Release { delay: Duration(reader.u64("delay")?) },
            EXTEND => RawVerdict::Extend { ttl: Duration(reader.u64("ttl")?), progress: None },
            EXTEND_WITH => RawVerdict::Extend {
                ttl: Duration(reader.u64("ttl")?),
                progress: Some(reader.long_text("progress")?),
            },
            NACK_DEAD => RawVerdict::NackDead { reason: reader.long_text("reason")? },
            _ => return Err(Malformed("unknown verdict")),
        };
        Ok(Self { id, token, verdict })
    }

    fn to_settlement(self) -> Settlement {
        let verdict = match self.verdict {
            RawVerdict::Ack { result: None } => Verdict::Ack,
            RawVerdict::Ack { result: Some(result) } => {
                Verdict::AckWith { result: Bytes::copy_from_slice(result) }
            }
            RawVerdict::NackDead { reason } => Verdict::NackDead { reason: reason.to_owned() },
            RawVerdict::Nack { delay, slow_group, reason } => {
                Verdict::Nack { delay, slow_group, reason: reason.to_owned() }
            }
            RawVerdict::Release { delay } => Verdict::Release { delay },
            RawVerdict::Extend { ttl, progress: None } => Verdict::Extend { ttl },
            RawVerdict::Extend { ttl, progress: Some(progress) } => {
                Verdict::ExtendWith { ttl, progress: progress.to_owned() }
            }
        };
        Settlement { id: self.id, token: self.token, verdict }
    }
}

pub(super) fn queue_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let len = reader.u8("queue name length")?;
    let name = reader.text(len.into(), "queue name")?;
    QueueName::validate(name).map_err(|_| Malformed("queue name is not valid"))?;
    Ok(name)
}

pub(super) fn owned_queue(name: &str) -> QueueName {
    QueueName::new(name).expect("validated when read")
}

impl<'a> Raw<'a> {
    /// Reads one command, without its length prefix.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        match reader.u8("command kind")? {
            CREATE => {
                let queue = queue_name(&mut reader)?;
                let request = match reader.u8("create flags")? {
                    0 => None,
                    1 => Some(RequestId(reader.u128("request")?)),
                    _ => return Err(Malformed("unknown create flags")),
                };
                Ok(Self::Create(RawCreate { queue, request, items: List::read(reader, ITEM_BYTES_MIN)? }))
            }
            LEASE => {
                let lease = RawLease {
                    queue: queue_name(&mut reader)?,
                    consumer: reader.long_text("consumer")?,
                    max: reader.u32("max")?,
                    max_bytes: reader.u64("max_bytes")?,
                    ttl: Duration(reader.u64("ttl")?),
                };
                reader.end("bytes behind a lease")?;
                Ok(Self::Lease(lease))
            }
            SETTLE => Ok(Self::Settle(List::read(reader, SETTLEMENT_BYTES_MIN)?)),
            CANCEL => Ok(Self::Cancel(List::read(reader, 16)?)),
            ADVANCE => {
                let limit = reader.u32("limit")?;
                reader.end("bytes behind an advance")?;
                Ok(Self::Advance { limit })
            }
            SET_QUEUE => queue::read_set(reader).map(|set| Self::SetQueue(Box::new(set))),
            DELETE_QUEUE => queue::read_delete(reader).map(|(queue, etag)| Self::DeleteQueue { queue, etag }),
            SET_POLICIES => {
                queue::read_policies(reader).map(|policies| Self::SetPolicies(Box::new(policies)))
            }
            PAUSE => queue::read_pause(reader).map(|pause| Self::Pause(Box::new(pause))),
            PURGE => queue::read_purge(reader).map(|purge| Self::Purge(Box::new(purge))),
            CANCEL_IF => Ok(Self::CancelIf(List::read(reader, update::TARGET_BYTES_MIN)?)),
            REDRIVE => Ok(Self::Redrive(List::read(reader, update::TARGET_BYTES_MIN + 8)?)),
            UPDATE => update::read_update(reader).map(|update| Self::Update(Box::new(update))),
            RUN_NOW => Ok(Self::RunNow(List::read(reader, update::TARGET_BYTES_MIN)?)),
            SET_GROUP => queue::read_set_group(reader).map(|set| Self::SetGroup(Box::new(set))),
            SET_SCHEDULE => schedule::read_set(reader).map(|set| Self::SetSchedule(Box::new(set))),
            DELETE_SCHEDULE => {
                let (queue, name, etag) = schedule::read_delete(reader)?;
                Ok(Self::DeleteSchedule { queue, name, etag })
            }
            PAUSE_SCHEDULE => schedule::read_pause(reader).map(|pause| Self::PauseSchedule(Box::new(pause))),
            RUN_SCHEDULE => schedule::read_run(reader).map(|run| Self::RunSchedule(Box::new(run))),
            FIRE => schedule::read_fire(reader).map(|fire| Self::Fire(Box::new(fire))),
            _ => Err(Malformed("unknown command kind")),
        }
    }

    /// Returns the command as its proposer built it.
    pub(super) fn into_command(self) -> Result<Command, Malformed> {
        Ok(match self {
            Self::Create(RawCreate { queue, request, mut items }) => {
                let mut tasks = Vec::with_capacity(items.len());
                while let Some(item) = items.next_item()? {
                    tasks.push(item.to_new_task());
                }
                Command::Create { queue: owned_queue(queue), request, tasks }
            }
            Self::Lease(RawLease { queue, consumer, max, max_bytes, ttl }) => Command::Lease {
                queue: owned_queue(queue),
                consumer: consumer.to_owned(),
                max,
                max_bytes,
                ttl,
            },
            Self::Settle(mut list) => {
                let mut settlements = Vec::with_capacity(list.len());
                while let Some(settlement) = list.next_settlement()? {
                    settlements.push(settlement.to_settlement());
                }
                Command::Settle(settlements)
            }
            Self::Cancel(mut list) => {
                let mut ids = Vec::with_capacity(list.len());
                while let Some(id) = list.next_id()? {
                    ids.push(id);
                }
                Command::Cancel(ids)
            }
            Self::Advance { limit } => Command::Advance { limit },
            Self::SetQueue(set) => Command::SetQueue(set),
            Self::DeleteQueue { queue, etag } => Command::DeleteQueue { queue: owned_queue(queue), etag },
            Self::SetPolicies(policies) => Command::SetPolicies(*policies),
            Self::Pause(pause) => Command::Pause(*pause),
            Self::Purge(purge) => Command::Purge(*purge),
            Self::CancelIf(mut list) => {
                let mut tasks = Vec::with_capacity(list.len());
                while let Some(task) = list.next_target()? {
                    tasks.push(task);
                }
                Command::CancelIf(tasks)
            }
            Self::Redrive(mut list) => {
                let mut tasks = Vec::with_capacity(list.len());
                while let Some(task) = list.next_redrive()? {
                    tasks.push(task);
                }
                Command::Redrive(tasks)
            }
            Self::Update(update) => Command::UpdateTask(update),
            Self::RunNow(mut list) => {
                let mut tasks = Vec::with_capacity(list.len());
                while let Some(task) = list.next_target()? {
                    tasks.push(task);
                }
                Command::RunNow(tasks)
            }
            Self::SetGroup(set) => Command::SetGroup(*set),
            Self::SetSchedule(set) => Command::SetSchedule(set),
            Self::DeleteSchedule { queue, name, etag } => {
                Command::DeleteSchedule { queue: owned_queue(queue), name: name.to_owned(), etag }
            }
            Self::PauseSchedule(pause) => Command::PauseSchedule(*pause),
            Self::RunSchedule(run) => Command::RunSchedule(*run),
            Self::Fire(fire) => Command::Fire(*fire),
        })
    }
}
