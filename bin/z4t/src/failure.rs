//! What failed, and its exit code: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict or precondition, 5 auth,
//! 6 unavailable or timeout.

use std::fmt;
use std::io;
use std::process::ExitCode;

use z4_client::{Error, Kind};
use z4_proto::reason;

/// Why a verb failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server, or the way to it, said no.
    Api(Error),
    /// The command line asks for something that cannot be.
    Usage(String),
    /// Anything else: a file that cannot be read, an output that cannot be written.
    Failed(String),
    /// The host is there and does not serve.
    NotServing(String),
    /// Nobody reads our output any more: end quietly.
    Closed,
    /// Some items failed; each was reported, this is the code of the worst.
    Partly(u8),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotServing(_) => 6,
            Self::Partly(code) => *code,
            Self::Api(error) => code_of(error),
        }
    }

    /// Tells people on stderr, and scripts by the code.
    pub(crate) fn report(self) -> ExitCode {
        let code = self.code();
        if !matches!(self, Self::Closed | Self::Partly(_)) {
            crate::output::talk(format_args!("error: {self}"));
        }
        ExitCode::from(code)
    }
}

/// Returns the exit code of an error. Exhaustive over the kinds, like the table of the doors.
pub(crate) fn code_of(error: &Error) -> u8 {
    if [reason::UNAUTHENTICATED, reason::PERMISSION_DENIED].contains(&error.reason()) {
        return 5;
    }
    match error.kind() {
        Kind::Invalid => 2,
        Kind::NotFound => 3,
        Kind::AlreadyExists | Kind::Conflict => 4,
        Kind::Unavailable | Kind::Overloaded | Kind::OutcomeUnknown => 6,
        Kind::Unsupported | Kind::Corrupt | Kind::Internal => 1,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(error) => error.fmt(f),
            Self::Usage(text) | Self::Failed(text) | Self::NotServing(text) => f.write_str(text),
            Self::Closed => f.write_str("output closed"),
            Self::Partly(_) => f.write_str("some items failed"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Api(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        Self::Failed(format!("cannot write the output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use z4_proto::status::Failure as Wire;

    #[test]
    fn every_kind_has_its_exit_code() {
        let code = |kind, name: &'static str| Failure::Api(Wire::new(kind, name, "x").into()).code();
        assert_eq!(code(Kind::Invalid, reason::FIELD_INVALID), 2);
        assert_eq!(code(Kind::NotFound, reason::TASK_NOT_FOUND), 3);
        assert_eq!(code(Kind::Conflict, reason::LEASE_LOST), 4);
        assert_eq!(code(Kind::Invalid, reason::PERMISSION_DENIED), 5);
        assert_eq!(code(Kind::Unavailable, reason::UNREACHABLE), 6);
        assert_eq!(code(Kind::OutcomeUnknown, reason::DEADLINE_EXCEEDED), 6);
        assert_eq!(code(Kind::Overloaded, reason::DISK_FULL), 6);
        assert_eq!(code(Kind::Internal, reason::INTERNAL), 1);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(), 0);
    }
}
