//! What may be set of a queue: each field on its own, so that what nobody set follows policies and defaults.
//!
//! [`Settings`] is sparse, and stands on a queue or on a pattern of names ([`Policies`]). A [`Patch`] says of each field:
//! leave, set or clear; the machine merges it, so that nobody reads, changes and writes back. What then holds for a queue is
//! its [`Effective`] settings: per field its own value, else that of the most specific pattern that has one, else z4's.
//!
//! # Not here
//! - Their rows and who keeps them: `config`. What they do: the verbs in `apply`.
//! # Caveats
//! - A field cannot be set to "none" against a policy that sets it: give a limit that is never met.

mod check;
mod effective;
mod group;
mod policies;

pub use check::check_pattern;
pub use effective::Effective;
pub use group::{GroupFields, GroupPatch, GroupSettings, SetGroup};
pub use policies::Policies;

use z4_types::{Duration, Priority};

use crate::codec::{Malformed, Reader, put_len, put_long_text, put_u32, put_u64};
use crate::command::Retry;

/// A token bucket: so many a second, and as many at once as have been saved up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second, in thousandths: 500 is one every two seconds.
    pub thousandths: u64,
    /// Most tokens saved up.
    pub burst: u32,
}

/// How long finished tasks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Kept so long after their end; zero: not at all.
    pub age: Duration,
    /// At most so many, the latest; None: any number.
    pub count: Option<u64>,
}

/// When a queue whose deliveries nearly all fail pauses by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Judged from so many deliveries within the window on.
    pub deliveries: u32,
    /// Opens when at least so many of a hundred failed.
    pub failure_percent: u8,
    /// Span that is looked at.
    pub window: Duration,
    /// How long it stays open.
    pub cool_down: Duration,
}

/// A value of a field, as bytes.
trait Value: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// Defines the fields once: struct, names, bits, merging and bytes follow.
macro_rules! settings {
    ($($(#[$doc:meta])* $bit:literal $NAME:ident $field:ident: $type:ty,)*) => {
        /// What was set, of a queue or by a policy; None: not set here.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Settings {
            $($(#[$doc])* pub $field: Option<$type>,)*
        }

        impl Fields {
            $($(#[$doc])* pub const $NAME: Self = Self(1 << $bit);)*

            /// Every field.
            pub const ALL: Self = Self($(1 << $bit)|*);

            const NAMES: &[(&str, Self)] = &[$((stringify!($field), Self::$NAME)),*];
        }

        impl Settings {
            /// Returns which fields are set.
            #[must_use]
            pub fn fields(&self) -> Fields {
                let mut fields = Fields::default();
                $(if self.$field.is_some() { fields.0 |= Fields::$NAME.0; })*
                fields
            }

            /// Applies a patch: what it sets is set, what it clears besides is not set any more.
            pub fn patch(&mut self, patch: &Patch) {
                $(if patch.set.$field.is_some() {
                    self.$field.clone_from(&patch.set.$field);
                } else if patch.clear.contains(Fields::$NAME) {
                    self.$field = None;
                })*
            }

            /// Takes from `weaker` what is not set here.
            pub fn fill_from(&mut self, weaker: &Self) {
                $(if self.$field.is_none() { self.$field.clone_from(&weaker.$field); })*
            }

            /// Appends the bytes (`docs/FORMATS.md`, "Task rows": settings).
            pub(crate) fn put(&self, out: &mut Vec<u8>) {
                put_u32(out, self.fields().0);
                $(if let Some(value) = &self.$field { value.put(out); })*
            }

            pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
                let fields = Fields::read(reader)?;
                Ok(Self {
                    $($field: if fields.contains(Fields::$NAME) {
                        Some(<$type>::read(reader)?)
                    } else {
                        None
                    },)*
                })
            }
        }
    };
}

settings! {
    /// Lease of a consumer that names none.
    0 LEASE_DURATION lease_duration: Duration,
    /// How failures are retried, unless the task says otherwise.
    1 RETRY retry: Retry,
    /// Failures until a task is dead, unless the task says otherwise.
    2 MAX_ATTEMPTS max_attempts: u32,
    /// A nack whose whole reason is one of these is not retried: the task is dead at once.
    3 NON_RETRYABLE non_retryable: Vec<String>,
    /// How long finished tasks are kept.
    4 RETENTION retention: Retention,
    /// Ends a task so long after it was first due, unless the task says otherwise.
    5 TTL ttl: Duration,
    /// Order among due tasks, unless the task says otherwise.
    6 PRIORITY priority: Priority,
    /// Creates are refused while so many tasks are to be done.
    7 MAX_BACKLOG max_backlog: u64,
    /// Deliveries of the whole queue.
    8 RATE rate: Rate,
    /// Tasks of the whole queue that are leased at once.
    9 CONCURRENCY concurrency: u32,
    /// Tasks of one group that are leased at once.
    10 GROUP_CONCURRENCY group_concurrency: u32,
    /// Deliveries of one group.
    11 GROUP_RATE group_rate: Rate,
    /// Share of one group where several have due tasks.
    12 GROUP_WEIGHT group_weight: u32,
    /// Tasks of one group run one at a time, in order.
    13 GROUP_SERIAL group_serial: bool,
    /// A waiting task gains a step of priority each such span.
    14 AGEING ageing: Duration,
    /// When the queue pauses by itself.
    15 BREAKER breaker: Breaker,
    /// Life-cycle events kept.
    16 EVENTS events: u64,
}

impl Settings {
    /// Returns the bytes, for who keeps settings without looking into them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// Reads what [`Settings::encode`] wrote; None if this version cannot understand all of it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let settings = Self::read(&mut reader).ok()?;
        reader.end("settings end").ok()?;
        Some(settings)
    }
}

/// A set of fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields(u32);

impl Fields {
    /// Returns whether all of `other` are in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the fields of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the field of that name, as in [`Settings`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|field| field.0 == name).map(|field| field.1)
    }

    /// Returns the names of its fields, in order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |field| self.contains(field.1)).map(|field| field.0)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let fields = Self(reader.u32("settings fields")?);
        if Self::ALL.contains(fields) { Ok(fields) } else { Err(Malformed("unknown settings field")) }
    }
}

/// A change of settings. What it neither sets nor clears stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// Fields to set.
    pub set: Settings,
    /// Fields to clear; one that is set as well is set.
    pub clear: Fields,
}

impl Patch {
    /// Appends the bytes (`docs/FORMATS.md`, "Log entry": set queue).
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_u32(out, self.clear.0);
        self.set.put(out);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { clear: Fields::read(reader)?, set: Settings::read(reader)? })
    }
}

impl Value for u32 {
    fn put(&self, out: &mut Vec<u8>) {
        put_u32(out, *self);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        reader.u32("settings number")
    }
}

impl Value for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, *self);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        reader.u64("settings number")
    }
}

impl Value for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u8("settings switch")? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("settings switch")),
        }
    }
}

impl Value for Duration {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        reader.u64("settings span").map(Self)
    }
}

impl Value for Priority {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        reader.u8("settings priority").map(Self)
    }
}

impl Value for Retry {
    fn put(&self, out: &mut Vec<u8>) {
        crate::codec::put_retry(out, self);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        crate::codec::read_retry(reader)
    }
}

impl Value for Retention {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.age.0);
        put_u64(out, self.count.unwrap_or(u64::MAX));
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let age = Duration(reader.u64("retention age")?);
        let count = reader.u64("retention count")?;
        Ok(Self { age, count: (count != u64::MAX).then_some(count) })
    }
}

impl Value for Rate {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.thousandths);
        put_u32(out, self.burst);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { thousandths: reader.u64("rate")?, burst: reader.u32("burst")? })
    }
}

impl Value for Breaker {
    fn put(&self, out: &mut Vec<u8>) {
        put_u32(out, self.deliveries);
        out.push(self.failure_percent);
        put_u64(out, self.window.0);
        put_u64(out, self.cool_down.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            deliveries: reader.u32("breaker deliveries")?,
            failure_percent: reader.u8("breaker failures")?,
            window: Duration(reader.u64("breaker window")?),
            cool_down: Duration(reader.u64("breaker cool-down")?),
        })
    }
}

impl Value for Vec<String> {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(out, self.len());
        self.iter().for_each(|text| put_long_text(out, text));
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = reader.u32("text count")? as usize;
        // Each text has at least its length: a count the bytes cannot hold sizes no allocation.
        if count > reader.len() / 4 {
            return Err(Malformed("text count exceeds its bytes"));
        }
        (0..count).map(|_| reader.long_text("settings text").map(str::to_owned)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_sets_clears_and_leaves() {
        let mut settings = Settings {
            max_attempts: Some(3),
            ttl: Some(Duration(9)),
            events: Some(7),
            ..Settings::default()
        };
        let set = Settings { max_attempts: Some(4), ..Settings::default() };
        settings.patch(&Patch { set, clear: Fields::TTL.union(Fields::MAX_ATTEMPTS) });
        let expected = Settings { max_attempts: Some(4), events: Some(7), ..Settings::default() };
        assert_eq!(settings, expected, "set wins over clear");
        assert_eq!(settings.fields().names().collect::<Vec<_>>(), ["max_attempts", "events"]);
        assert_eq!(Fields::named("group_weight"), Some(Fields::GROUP_WEIGHT));
        assert_eq!(Fields::named("weight"), None);
    }

    #[test]
    fn settings_are_kept_as_bytes_and_unknown_fields_are_not_guessed() {
        let settings = Settings { max_attempts: Some(3), group_serial: Some(true), ..Settings::default() };
        let mut bytes = settings.encode();
        assert_eq!(Settings::decode(&bytes), Some(settings));
        bytes.push(0);
        assert_eq!(Settings::decode(&bytes), None, "more than it knows");
        bytes[3] |= 0x80;
        assert_eq!(Settings::decode(&bytes), None, "a field of a later version");
        assert_eq!(Settings::decode(&[]), None);
    }
}
