//! Failures on the wire: one value with all the facts, and its three shapes.
//!
//! A [`Failure`] is what a door wants to say and what a client wants to know. As a whole call's answer it is a
//! `tonic::Status` with `google.rpc` details (ErrorInfo, RetryInfo, BadRequest); in batches and streams it is the
//! message `z4.v1.Failure`. The table from kind to code is [`code_of`]. A failure for want of leadership names the
//! leader in the metadata of its ErrorInfo ([`Leader`]).
//!
//! ```
//! use z4_proto::{reason, status::Failure};
//! use z4_types::Kind;
//!
//! let failure = Failure::new(Kind::Overloaded, reason::OVERLOADED, "the inbox of shard 3 is full; back off")
//!     .with_retry_after(std::time::Duration::from_millis(50));
//! let status = failure.to_status();
//! assert_eq!(status.code(), tonic::Code::ResourceExhausted);
//! assert_eq!(Failure::from_status(&status), failure);
//! ```
//!
//! # Caveats
//! - A status that did not come from z4 (a broken connection, a proxy) has no ErrorInfo. Unless it proves that the
//!   call was never sent, its kind is `OutcomeUnknown`: the server may have done it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ErrorInfo, StatusExt as _};
use z4_types::{Kind, TaskId};

use crate::{reason, v1};

/// Metadata of ErrorInfo: the name of the host that leads.
const LEADER_HOST: &str = "leaderHost";
/// And its service address.
const LEADER_ADDRESS: &str = "leaderAddress";
/// The task that is in the way.
const TASK_ID: &str = "taskId";

/// Who leads the shard that a call is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The host's stable name.
    pub host: String,
    /// host:port of its gRPC door.
    pub address: String,
}

/// Why something failed, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the caller should do.
    pub kind: Kind,
    /// Stable name, one of [`crate::reason`] unless a newer server or a proxy made it.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// Wait at least so long before trying again.
    pub retry_after: Option<Duration>,
    /// The request's field that is wrong.
    pub field: Option<String>,
    /// Who should have been asked. Boxed: it is seldom there.
    pub leader: Option<Box<Leader>>,
    /// The task that is in the way, such as the one that has a key.
    pub task: Option<Box<TaskId>>,
}

/// Returns the gRPC code of a kind. Exhaustive: a new kind does not compile until it has one.
#[must_use]
pub fn code_of(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::Unsupported => Code::Unimplemented,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::Conflict => Code::Aborted,
        Kind::Unavailable => Code::Unavailable,
        Kind::Overloaded => Code::ResourceExhausted,
        Kind::OutcomeUnknown => Code::DeadlineExceeded,
        Kind::Corrupt => Code::DataLoss,
        Kind::Internal => Code::Internal,
    }
}

/// Returns the kind of a code, the way back from [`code_of`]; codes that z4 never sends get the nearest.
fn kind_of(code: Code) -> Kind {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::PermissionDenied | Code::Unauthenticated => {
            Kind::Invalid
        }
        Code::Unimplemented => Kind::Unsupported,
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::AlreadyExists,
        Code::Aborted | Code::FailedPrecondition => Kind::Conflict,
        Code::Unavailable => Kind::Unavailable,
        Code::ResourceExhausted => Kind::Overloaded,
        Code::DeadlineExceeded | Code::Cancelled => Kind::OutcomeUnknown,
        Code::DataLoss => Kind::Corrupt,
        Code::Internal | Code::Unknown | Code::Ok => Kind::Internal,
    }
}

/// Returns the kind of one of our own failures: [`kind_of`] its code, but for those whose code says more than their kind.
fn own_kind(code: Code, reason: &str) -> Kind {
    if reason == reason::EVENTS_COMPACTED { Kind::Conflict } else { kind_of(code) }
}

impl Failure {
    /// Returns its gRPC code: [`code_of`] its kind, but for reasons that gRPC has a closer word for.
    #[must_use]
    pub fn code(&self) -> Code {
        match &*self.reason {
            reason::EVENTS_COMPACTED => Code::OutOfRange,
            reason::EVENTS_OFF => Code::FailedPrecondition,
            _ => code_of(self.kind),
        }
    }

    /// Returns a failure without delay and field.
    #[must_use]
    pub fn new(kind: Kind, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let (reason, message) = (reason.into(), message.into());
        Self { kind, reason, message, retry_after: None, field: None, leader: None, task: None }
    }

    /// Returns an `Invalid` failure about `field`, whose name opens the message.
    #[must_use]
    pub fn invalid(field: &str, reason: &'static str, message: impl std::fmt::Display) -> Self {
        Self::new(Kind::Invalid, reason, format!("{field}: {message}")).with_field(field)
    }

    /// Adds how long to wait before trying again.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Adds the field that is wrong.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds who should have been asked.
    #[must_use]
    pub fn with_leader(mut self, host: impl Into<String>, address: impl Into<String>) -> Self {
        self.leader = Some(Box::new(Leader { host: host.into(), address: address.into() }));
        self
    }

    /// Adds the task that is in the way.
    #[must_use]
    pub fn with_task(mut self, id: TaskId) -> Self {
        self.task = Some(Box::new(id));
        self
    }

    /// Returns what ErrorInfo says besides the reason.
    fn metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        if let Some(leader) = &self.leader {
            metadata.insert(LEADER_HOST.to_owned(), leader.host.clone());
            metadata.insert(LEADER_ADDRESS.to_owned(), leader.address.clone());
        }
        if let Some(id) = &self.task {
            metadata.insert(TASK_ID.to_owned(), id.to_string());
        }
        metadata
    }

    /// Returns the failure as the answer of a whole call.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let info = ErrorInfo {
            reason: self.reason.clone().into_owned(),
            domain: reason::DOMAIN.to_owned(),
            metadata: self.metadata().into_iter().collect(),
        };
        let mut details = ErrorDetails::with_error_info(info.reason, info.domain, info.metadata);
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        if let Some(field) = &self.field {
            details.add_bad_request_violation(field.clone(), self.message.clone());
        }
        Status::with_error_details(self.code(), self.message.clone(), details)
    }

    /// Returns what a status says. See the essay's caveat for those that z4 did not make.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info().filter(|info| info.domain == reason::DOMAIN) else {
            return Self::from_foreign(status);
        };
        Self {
            kind: own_kind(status.code(), &info.reason),
            reason: Cow::Owned(info.reason.clone()),
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            field: details
                .bad_request()
                .and_then(|bad| bad.field_violations.first())
                .map(|violation| violation.field.clone()),
            leader: leader_of(|key| info.metadata.get(key)),
            task: task_of(|key| info.metadata.get(key)),
        }
    }

    fn from_foreign(status: &Status) -> Self {
        let (kind, name) = match status.code() {
            // The connection was never made, so the server cannot have seen the call.
            Code::Unavailable if caused_by::<tonic::ConnectError>(status) => {
                (Kind::Unavailable, reason::UNREACHABLE)
            }
            Code::DeadlineExceeded => (Kind::OutcomeUnknown, reason::DEADLINE_EXCEEDED),
            // tonic's own timer says "cancelled" when it gives up on our behalf.
            Code::Cancelled if caused_by::<tonic::TimeoutExpired>(status) => {
                (Kind::OutcomeUnknown, reason::DEADLINE_EXCEEDED)
            }
            Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal => {
                (Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN)
            }
            Code::Unauthenticated => (Kind::Invalid, reason::UNAUTHENTICATED),
            Code::PermissionDenied => (Kind::Invalid, reason::PERMISSION_DENIED),
            Code::Unimplemented => (Kind::Unsupported, reason::UNSUPPORTED),
            Code::ResourceExhausted => (Kind::Overloaded, reason::OVERLOADED),
            Code::DataLoss => (Kind::Corrupt, reason::CORRUPT),
            code => (kind_of(code), reason::FIELD_INVALID),
        };
        Self::new(kind, name, with_causes(status))
    }

    /// Returns the failure as a message of a batch or stream.
    #[must_use]
    pub fn to_pb(&self) -> v1::Failure {
        v1::Failure {
            code: self.code() as i32,
            reason: self.reason.clone().into_owned(),
            message: self.message.clone(),
            retry_delay: self.retry_after.and_then(|delay| delay.try_into().ok()),
            field: self.field.clone().unwrap_or_default(),
            metadata: self.metadata(),
        }
    }

    /// Returns what a message of a batch or stream says.
    #[must_use]
    pub fn from_pb(failure: v1::Failure) -> Self {
        Self {
            kind: own_kind(Code::from(failure.code), &failure.reason),
            reason: Cow::Owned(failure.reason),
            message: failure.message,
            retry_after: failure.retry_delay.and_then(|delay| delay.try_into().ok()),
            field: Some(failure.field).filter(|field| !field.is_empty()),
            leader: leader_of(|key| failure.metadata.get(key)),
            task: task_of(|key| failure.metadata.get(key)),
        }
    }

    /// Returns the failure as that of item `index` of a batch.
    #[must_use]
    pub fn to_item(&self, index: usize) -> v1::ItemError {
        v1::ItemError { index: u32::try_from(index).unwrap_or(u32::MAX), failure: Some(self.to_pb()) }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.to_status()
    }
}

/// Reads who leads from metadata; a leader without an address cannot be asked.
fn leader_of<'a>(value: impl Fn(&str) -> Option<&'a String>) -> Option<Box<Leader>> {
    let address = value(LEADER_ADDRESS).filter(|address| !address.is_empty())?.clone();
    let host = value(LEADER_HOST).cloned().unwrap_or_default();
    Some(Box::new(Leader { host, address }))
}

/// Reads which task is in the way from metadata.
fn task_of<'a>(value: impl Fn(&str) -> Option<&'a String>) -> Option<Box<TaskId>> {
    value(TASK_ID).and_then(|id| id.parse().ok()).map(Box::new)
}

fn caused_by<E: std::error::Error + 'static>(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// tonic says no more than "transport error"; the causes below it say what happened.
fn with_causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&more);
        }
        cause = error.source();
    }
    if text.is_empty() { format!("{:?}", status.code()) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 10] = [
        Kind::Invalid,
        Kind::Unsupported,
        Kind::NotFound,
        Kind::AlreadyExists,
        Kind::Conflict,
        Kind::Unavailable,
        Kind::Overloaded,
        Kind::OutcomeUnknown,
        Kind::Corrupt,
        Kind::Internal,
    ];

    #[test]
    fn a_failure_survives_status_and_message() {
        for kind in KINDS {
            let plain = Failure::new(kind, reason::LEASE_LOST, "gone");
            let full =
                plain.clone().with_retry_after(Duration::from_millis(1_250)).with_field("tasks[3].ttl");
            let led = plain.clone().with_leader("peer2", "peer2:6355");
            let taken = plain.clone().with_task(TaskId(7));
            for failure in [plain, full, led, taken] {
                assert_eq!(Failure::from_status(&failure.to_status()), failure);
                assert_eq!(Failure::from_pb(failure.to_pb()), failure);
            }
        }
    }

    #[test]
    fn a_status_from_elsewhere_is_an_unknown_outcome_unless_it_says_better() {
        let kind = |code| Failure::from_status(&Status::new(code, "x")).kind;
        assert_eq!(kind(Code::Unavailable), Kind::OutcomeUnknown);
        assert_eq!(kind(Code::Unknown), Kind::OutcomeUnknown);
        assert_eq!(kind(Code::DeadlineExceeded), Kind::OutcomeUnknown);
        assert_eq!(kind(Code::Unimplemented), Kind::Unsupported);
        assert_eq!(kind(Code::Unauthenticated), Kind::Invalid);
    }
}
