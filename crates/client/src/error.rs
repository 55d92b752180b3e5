//! The one error of the client: what failed, and through [`Error::kind`] what to do next.

use std::time::Duration;

use z4_proto::reason;
use z4_proto::status::Failure;
use z4_types::{Kind, TaskId};

use crate::call::SPAN_MAX;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(Failure);

impl Error {
    pub(crate) fn new(kind: Kind, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Failure::new(kind, reason, message))
    }

    /// Returns the same error with a wait before the next attempt.
    pub(crate) fn after(self, wait: Option<Duration>) -> Self {
        Self(match wait {
            Some(wait) => self.0.with_retry_after(wait),
            None => self.0,
        })
    }

    /// Returns what the caller should do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Returns the stable name of the failure, such as `LEASE_LOST`; the names are in `z4_proto::reason`.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// Returns the text for people, without the reason.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns how long to wait at least before trying again, if the server said so; at most 24 h.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after.map(|wait| wait.min(SPAN_MAX))
    }

    /// Returns the field of the request that is wrong.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// Returns the service address of the host that leads what the call was about, if the server named it.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.0.leader.as_ref().map(|leader| leader.address.as_str())
    }

    /// Returns the task that was in the way, such as the one that has a key.
    #[must_use]
    pub fn task(&self) -> Option<TaskId> {
        self.0.task.as_deref().copied()
    }

    /// The same call may succeed later; with the same request id it is safe.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind(), Kind::Unavailable | Kind::Overloaded | Kind::OutcomeUnknown)
    }

    /// The connection, not the request, is the trouble: try another host.
    pub(crate) fn blames_host(&self) -> bool {
        let host = [
            reason::UNREACHABLE,
            reason::DRAINING,
            reason::STARTING,
            reason::NOT_JOINED,
            reason::NO_REPLICA,
            reason::DEADLINE_EXCEEDED,
        ];
        self.kind() == Kind::OutcomeUnknown || host.contains(&self.reason())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self(Failure::from_status(&status))
    }
}

impl From<z4_proto::v1::Failure> for Error {
    fn from(failure: z4_proto::v1::Failure) -> Self {
        Self(Failure::from_pb(failure))
    }
}
