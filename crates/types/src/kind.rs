//! The kind of an error: what the caller should do next. Doors translate it, once (ADR-0006).

/// What should the caller do? Every error of every crate answers with one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Fix the request: it can never succeed as it is.
    Invalid,
    /// Fix the request: this build does not offer what it asks for.
    Unsupported,
    /// Take it as an answer: the named thing does not exist.
    NotFound,
    /// Take it as an answer: the named thing exists already.
    AlreadyExists,
    /// Read again, then redo: the lease was lost or the version moved.
    Conflict,
    /// Retry the same call: nothing was proposed.
    Unavailable,
    /// Back off, then retry: a limit was met and nothing was accepted.
    Overloaded,
    /// Retry with the *same* request id: it was proposed and the answer was lost.
    OutcomeUnknown,
    /// Report it: stored bytes do not match their checksum. Nothing is served from them.
    Corrupt,
    /// Report it: a defect in z4.
    Internal,
}
