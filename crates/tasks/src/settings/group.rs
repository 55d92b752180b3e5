//! What may be set of one group of a queue; what is not set follows the queue's `group_*` settings.

use z4_types::QueueName;

use super::check::{check_limit, check_rate, check_weight};
use super::{Effective, Rate, Value};
use crate::codec::{Malformed, Reader};
use crate::command::Invalid;
use crate::command::check::check_group;
use crate::fair::{GroupLimits, Limits};

/// What was set of a group; None: not set here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupSettings {
    /// Its share where several groups have due tasks, 1 to 1,000.
    pub weight: Option<u32>,
    /// Its tasks run one at a time, in order.
    pub serial: Option<bool>,
    /// Its tasks that are leased at once.
    pub concurrency: Option<u32>,
    /// Its deliveries.
    pub rate: Option<Rate>,
}

/// Fields of [`GroupSettings`], as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupFields(pub u8);

impl GroupFields {
    /// The weight.
    pub const WEIGHT: Self = Self(1);
    /// Whether it is serial.
    pub const SERIAL: Self = Self(2);
    /// The concurrency.
    pub const CONCURRENCY: Self = Self(4);
    /// The rate.
    pub const RATE: Self = Self(8);
    /// All of them.
    pub const ALL: Self = Self(15);

    /// Returns whether all of `other` are in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let fields = Self(reader.u8("group fields")?);
        if Self::ALL.contains(fields) { Ok(fields) } else { Err(Malformed("unknown group field")) }
    }
}

impl GroupSettings {
    /// Returns which fields are set.
    #[must_use]
    pub fn fields(&self) -> GroupFields {
        let bit = |is_set: bool, field: GroupFields| if is_set { field.0 } else { 0 };
        GroupFields(
            bit(self.weight.is_some(), GroupFields::WEIGHT)
                | bit(self.serial.is_some(), GroupFields::SERIAL)
                | bit(self.concurrency.is_some(), GroupFields::CONCURRENCY)
                | bit(self.rate.is_some(), GroupFields::RATE),
        )
    }

    /// Applies a patch: what it sets is set, what it clears besides is not set any more.
    pub fn patch(&mut self, patch: &GroupPatch) {
        let GroupPatch { set, clear } = patch;
        let keep = |field| !clear.contains(field);
        self.weight = set.weight.or(self.weight.filter(|_| keep(GroupFields::WEIGHT)));
        self.serial = set.serial.or(self.serial.filter(|_| keep(GroupFields::SERIAL)));
        self.concurrency = set.concurrency.or(self.concurrency.filter(|_| keep(GroupFields::CONCURRENCY)));
        self.rate = set.rate.or(self.rate.filter(|_| keep(GroupFields::RATE)));
    }

    /// Checks every field that is set.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        check_weight("weight", self.weight)?;
        check_limit("concurrency", self.concurrency.map(u64::from))?;
        check_rate(["rate.per_second", "rate.burst"], self.rate)
    }

    /// Returns the limits that hold where this is set on a group whose queue says `queue`.
    pub(crate) fn over(&self, queue: &GroupLimits) -> GroupLimits {
        GroupLimits {
            weight: self.weight.unwrap_or(queue.weight),
            serial: self.serial.unwrap_or(queue.serial),
            limits: Limits {
                concurrency: self.concurrency.or(queue.limits.concurrency),
                rate: self.rate.or(queue.limits.rate),
            },
        }
    }

    /// Appends the bytes (`docs/FORMATS.md`, "Groups").
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.fields().0);
        if let Some(weight) = self.weight {
            weight.put(out);
        }
        if let Some(serial) = self.serial {
            serial.put(out);
        }
        if let Some(concurrency) = self.concurrency {
            concurrency.put(out);
        }
        if let Some(rate) = self.rate {
            rate.put(out);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let fields = GroupFields::read(reader)?;
        let has = |field| fields.contains(field);
        Ok(Self {
            weight: if has(GroupFields::WEIGHT) { Some(u32::read(reader)?) } else { None },
            serial: if has(GroupFields::SERIAL) { Some(bool::read(reader)?) } else { None },
            concurrency: if has(GroupFields::CONCURRENCY) { Some(u32::read(reader)?) } else { None },
            rate: if has(GroupFields::RATE) { Some(Rate::read(reader)?) } else { None },
        })
    }
}

impl Effective {
    /// Returns the limits of the queue as a whole.
    pub(crate) fn limits(&self) -> Limits {
        Limits { concurrency: self.concurrency, rate: self.rate }
    }

    /// Returns the limits of a group of which nothing is set.
    pub(crate) fn group_limits(&self) -> GroupLimits {
        GroupLimits {
            weight: self.group_weight,
            serial: self.group_serial,
            limits: Limits { concurrency: self.group_concurrency, rate: self.group_rate },
        }
    }
}

/// A change of what is set of a group. What it neither sets nor clears stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupPatch {
    /// Fields to set.
    pub set: GroupSettings,
    /// Fields to clear; one that is set as well is set.
    pub clear: GroupFields,
}

impl GroupPatch {
    /// Appends the bytes (`docs/FORMATS.md`, "Log entry": set group).
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.clear.0 & GroupFields::ALL.0);
        self.set.put(out);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { clear: GroupFields::read(reader)?, set: GroupSettings::read(reader)? })
    }
}

/// Sets limits of one group, which need not have tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetGroup {
    /// The queue.
    pub queue: QueueName,
    /// The group.
    pub group: String,
    /// What to change.
    pub patch: GroupPatch,
}

impl SetGroup {
    /// Checks the name and the settings.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        check_group("group", &self.group)?;
        self.patch.set.check()
    }
}
