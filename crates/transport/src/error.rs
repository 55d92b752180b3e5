//! Why a host could not be reached, was not talked to, or did not answer.

use std::io;

use z4_types::Kind;

use crate::foreign::Foreign;
use crate::frame::BadFrame;
use crate::hello::{BadHello, Reason, Refusal};

/// Why a connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot work.
    #[error("{0}")]
    Invalid(String),
    /// The name has no address.
    #[error("{address} cannot be resolved: {source}; check the name")]
    Unresolved {
        /// host:port.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nobody listens there, or packets are lost.
    #[error("{address} cannot be reached: {source}; check that the host runs and the port is open")]
    Unreachable {
        /// host:port.
        address: String,
        /// What the socket said.
        source: io::Error,
    },
    /// What arrived is not a handshake.
    #[error(transparent)]
    Handshake(#[from] BadHello),
    /// The other host refuses us.
    #[error("refused by the other host: {0}")]
    Refused(Refusal),
    /// The other host has ended the connection and says why.
    #[error("ended by the other host: {0}")]
    Ended(Refusal),
    /// We refuse the other host.
    #[error("refused by this host: {0}")]
    Rejected(Refusal),
    /// What arrived is not a frame.
    #[error(transparent)]
    Frame(#[from] BadFrame),
    /// The other side closed the connection without a word.
    #[error("the other side closed the connection")]
    Closed,
    /// Nothing was heard for too long.
    #[error("nothing was heard for {0} ms")]
    Silent(u64),
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The deadline passed before the question was sent.
    #[error(
        "the other side accepted no handshake within {0} ms; check that the address is the peer port of a z4 host"
    )]
    Deadline(u64),
    /// The question was sent and no answer came.
    #[error("the question was sent and not answered: {0}; it may or may not have had its effect")]
    Unanswered(String),
    /// The address of the host changed, or it was removed. The lane dials again, or ends.
    #[error("the host is reached elsewhere from now on")]
    Moved,
}

impl Error {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid(_) => Kind::Invalid,
            Self::Handshake(BadHello::Foreign(Foreign::Http1 | Foreign::Http2 | Foreign::Tls)) => {
                Kind::Invalid
            }
            Self::Refused(refusal) | Self::Ended(refusal) | Self::Rejected(refusal) => match refusal.reason {
                Reason::Busy => Kind::Overloaded,
                Reason::Closing | Reason::Replaced | Reason::Broken | Reason::Other(_) => Kind::Unavailable,
                Reason::VersionUnsupported => Kind::Unsupported,
                Reason::WrongCluster
                | Reason::UnknownHost
                | Reason::Removed
                | Reason::WrongInstance
                | Reason::NotForYou => Kind::Invalid,
            },
            Self::Unanswered(_) => Kind::OutcomeUnknown,
            Self::Unresolved { .. }
            | Self::Unreachable { .. }
            | Self::Handshake(_)
            | Self::Frame(_)
            | Self::Closed
            | Self::Silent(_)
            | Self::Socket(_)
            | Self::Deadline(_)
            | Self::Moved => Kind::Unavailable,
        }
    }

    /// Returns the refusal, whoever refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Ended(refusal) | Self::Rejected(refusal) => Some(refusal),
            _ => None,
        }
    }
}
