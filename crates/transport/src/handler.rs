//! What a host gives to its transport: who may talk to us, where frames go, and answers to questions.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use z4_types::HostId;

use crate::hello::{Identity, Lane, Purpose, Refusal};
use crate::stream::Boxed;

/// The host's side of a transport. Called on tokio's threads, so nothing here may block.
pub trait Handler: Send + Sync + 'static {
    /// Says whether to talk to `peer`. Asked for everyone who dials us, for everyone we dial on a lane, and again for
    /// all who hold a lane to us when the set of peers changes. The clusters of a lane have been compared before.
    ///
    /// # Errors
    /// The refusal, which the other host is told.
    fn admit(&self, peer: &Identity, purpose: Purpose) -> Result<(), Refusal>;

    /// Takes one frame. Frames of one lane come in the order they were sent; some may be missing, none comes twice
    /// unless it was sent twice.
    fn frame(&self, from: &HostId, arrival: Arrival);

    /// Answers a question of a host that may be no member yet. Dropped if it takes longer than
    /// [`crate::Timing::answer`].
    fn answer(&self, from: Identity, question: Bytes) -> Boxed<'static, Bytes>;

    /// Host `by` refuses us, or has ended a lane of ours, and says why: so a removed host learns that it was removed.
    /// Called each time; may be ignored.
    fn refused(&self, by: &HostId, refusal: &Refusal) {
        let _ = (by, refusal);
    }
}

/// One frame that has arrived.
#[derive(Debug)]
pub struct Arrival {
    /// The lane it came on.
    pub lane: Lane,
    /// What was sent.
    pub body: Bytes,
    /// Its share of the lane's room. Keep it as long as the body, or as long as the work it makes.
    pub room: Room,
}

/// A share of what a handler may hold of one lane's frames. Given back when dropped; while all is taken, the lane's
/// reader stops and TCP slows the sender down.
#[derive(Debug)]
pub struct Room {
    _permit: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit }
    }
}
