//! What a transport is told at its start: who we are, how patient, how large.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use z4_env::{Clock, RealClock};
use z4_types::ClusterId;
use z4_types::limits::FRAME_BYTES_MAX;

use crate::error::Error;
use crate::hello::{Identity, Lane, NAME_BYTES_MAX};
use crate::stream::{PlainTcp, Wire};

/// Everything a transport is told at its start.
#[derive(Clone)]
pub struct Config {
    /// Who this host is; said in every handshake. A cluster of zero is replaced by `cluster`.
    pub identity: Identity,
    /// What is said instead of a cluster of zero, once it is known.
    pub cluster: Arc<OnceLock<ClusterId>>,
    /// Where the jitter of reconnects comes from.
    pub seed: u64,
    /// How patient.
    pub timing: Timing,
    /// How large.
    pub sizes: Sizes,
    /// What is under the frames.
    pub wire: Arc<dyn Wire>,
    /// Measures how long ago a host was heard of, and how long it took to answer. Its wall clock is not read.
    pub clock: Arc<dyn Clock>,
}

/// How patient a transport is.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For resolving a name and connecting.
    pub connect: Duration,
    /// For a handshake, from the first byte to the last; also for the question of an ask.
    pub handshake: Duration,
    /// A dialer that has sent nothing for so long pings; an acceptor beats so often.
    pub beat: Duration,
    /// Who has heard nothing for so long closes the connection. Several beats, so that one late beat does no harm.
    pub silence: Duration,
    /// Pause after the first failure.
    pub backoff_min: Duration,
    /// Longest pause; also how long a connection must live to count as a success.
    pub backoff_max: Duration,
    /// How long a lane that closes may take to send what waits.
    pub grace: Duration,
    /// How long a handler may take to answer a question.
    pub answer: Duration,
}

/// How much a transport holds.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Frames that wait on one outgoing lane. Past it `send` drops.
    pub queue_frames: usize,
    /// Bytes that wait on one outgoing bulk lane. Past it `send` drops; a single frame is always taken.
    pub bulk_queue_bytes: usize,
    /// The same for an urgent lane.
    pub urgent_queue_bytes: usize,
    /// Largest frame on a bulk lane, bytes. `send` refuses larger ones, readers close the connection.
    pub bulk_frame_bytes: usize,
    /// The same for an urgent lane: small, since one frame must not hold up the next for long.
    pub urgent_frame_bytes: usize,
    /// Bytes of bulk frames of one host that the handler may hold. Past it the reader stops and TCP slows the sender.
    pub bulk_room_bytes: usize,
    /// The same for urgent frames: their own, so that bulk cannot stop them.
    pub urgent_room_bytes: usize,
    /// Largest question or answer of an ask, bytes.
    pub ask_bytes: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            handshake: Duration::from_secs(3),
            beat: Duration::from_secs(1),
            silence: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            grace: Duration::from_secs(1),
            answer: Duration::from_secs(30),
        }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            queue_frames: 8_192,
            bulk_queue_bytes: 64 << 20,
            urgent_queue_bytes: 8 << 20,
            bulk_frame_bytes: FRAME_BYTES_MAX,
            urgent_frame_bytes: 1 << 20,
            bulk_room_bytes: 64 << 20,
            urgent_room_bytes: 8 << 20,
            ask_bytes: 4 << 20,
        }
    }
}

impl Sizes {
    /// Returns the largest frame of `lane`, bytes.
    pub(crate) fn frame_bytes(&self, lane: Lane) -> usize {
        match lane {
            Lane::Urgent => self.urgent_frame_bytes,
            Lane::Bulk => self.bulk_frame_bytes,
        }
    }

    /// Returns the bytes that may wait on an outgoing `lane`.
    pub(crate) fn queue_bytes(&self, lane: Lane) -> usize {
        match lane {
            Lane::Urgent => self.urgent_queue_bytes,
            Lane::Bulk => self.bulk_queue_bytes,
        }
    }

    /// Returns the bytes that the handler may hold of an incoming `lane`.
    pub(crate) fn room_bytes(&self, lane: Lane) -> usize {
        match lane {
            Lane::Urgent => self.urgent_room_bytes,
            Lane::Bulk => self.bulk_room_bytes,
        }
    }
}

impl Config {
    /// Returns the defaults around `identity`; `seed` gives the jitter of reconnects.
    #[must_use]
    pub fn new(identity: Identity, seed: u64) -> Self {
        Self {
            identity,
            cluster: Arc::default(),
            seed,
            timing: Timing::default(),
            sizes: Sizes::default(),
            wire: Arc::new(PlainTcp),
            clock: Arc::new(RealClock::new()),
        }
    }

    /// Says to which cluster a host belongs that belonged to none: all clones of this configuration say so from now on.
    /// Of a host that belongs to one nothing changes.
    pub fn set_cluster(&self, cluster: ClusterId) {
        // Only the first one counts: a host belongs to one cluster for ever.
        let _ = self.cluster.set(cluster);
    }

    /// Returns who this host is now.
    pub(crate) fn own(&self) -> Identity {
        let mut own = self.identity.clone();
        if own.cluster == ClusterId(0)
            && let Some(cluster) = self.cluster.get()
        {
            own.cluster = *cluster;
        }
        own
    }

    /// Checks what a mistake in the configuration could break.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first thing that cannot work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let sizes = &self.sizes;
        if !self.identity.fits() {
            return Err(Error::Invalid(format!(
                "a host has a name, and cluster name, host name and address have at most {NAME_BYTES_MAX} bytes each"
            )));
        }
        for lane in [Lane::Urgent, Lane::Bulk] {
            let (frame, room) = (sizes.frame_bytes(lane), sizes.room_bytes(lane));
            if frame > FRAME_BYTES_MAX || room < frame + crate::inbound::FRAME_COST || room > 1 << 31 {
                return Err(Error::Invalid(format!(
                    "a {lane} frame has at most {FRAME_BYTES_MAX} bytes, and the room for them holds at least one"
                )));
            }
        }
        if self.timing.silence <= self.timing.beat {
            return Err(Error::Invalid("silence must be longer than a beat".into()));
        }
        Ok(())
    }
}
