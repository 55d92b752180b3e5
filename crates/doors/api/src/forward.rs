//! Calls for shards that another host leads: passed on to its door, once.
//!
//! ```text
//!   client ──call──► this door ──route──► Here: the host            Nowhere: wait, look again
//!                        └──────────────► There: its door ──► the host that leads
//! ```
//!
//! A call that was passed on is never passed on again: routes may disagree for a moment, and a call must not go in
//! circles. The second host refuses it with the leader it should have met, the first one looks again. What was
//! certainly not done is tried until the call's deadline, so an election is a delay and no error; what may have been
//! done is reported as such, and the client repeats it under the same request id. The second host gets what is left
//! of the caller's time.
//!
//! A stale read goes to any host that holds a replica of its shard (`replicas.rs`), also if nobody leads that.
//!
//! Unary calls are decoded here and encoded again, because this host must look into them anyway to find the shard. A
//! pull stream is decoded up to its opening, then its frames are passed on as they come (`pipe.rs`).
//!
//! # Invariants
//! - A call with the metadata `z4-forwarded-by` is answered by this host or refused.
//! - What a passed call holds is under the same budget as one that is served here: its request until it is answered, its
//!   answer until it is decoded. See `bodies.rs`.
//! # Not here
//! - Where a shard is led: the host knows, from its registry and its replicas ([`z4_host::Handle::route`]).
//! - Splitting a batch by shard: `tasks/split.rs`.
//! # Caveats
//! - Batches of one Push stream for a shard led elsewhere travel side by side: they may be created in another order.
//!
//! Sources: ADR-0010.

mod pass;
mod peers;
mod pipe;
mod replicas;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::{sleep, timeout_at};
use tonic::Request;
use tonic::metadata::MetadataMap;
use z4_host::{Error, Route};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_types::{HostId, Kind, ShardId};

use crate::call::{Call, FORWARDED_BY};
use crate::status;

pub(crate) use pass::Pass;
pub(crate) use peers::{Answers, Peers};
pub(crate) use pipe::{Piped, Splice, pipe};
pub(crate) use replicas::{may_differ_elsewhere, replicas};

/// Wait before the route is looked up again: a heartbeat tells of a new leader sooner than that.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// It doubles up to this: a fraction of an election, and cheap for thousands of waiting calls.
const PAUSE_MAX: Duration = Duration::from_millis(80);

/// Passes a call on until another host has answered it. None: by now the shard is led here.
///
/// # Errors
/// What the other host said, or why none could be asked in time.
pub(crate) async fn pass<R: Pass>(
    call: Call<'_>,
    shard: ShardId,
    request: &R,
) -> Result<Option<R::Reply>, Failure> {
    let mut pauses = Pauses::default();
    loop {
        let failure = match leader(call, shard)? {
            Leader::Here => return Ok(None),
            Leader::Nobody(failure) => failure,
            Leader::At(host, service) => match ask(call, &host, &service, request, named).await {
                Err(failure) if again::<R>(&failure) => failure,
                answer => return answer.map(Some),
            },
        };
        pauses.wait(call, failure).await?;
    }
}

/// Where a call goes.
pub(crate) enum Leader {
    Here,
    At(HostId, String),
    /// What to say if it stays so.
    Nobody(Failure),
}

/// Looks up who leads `shard`.
///
/// # Errors
/// `Unavailable` if the call was passed on once already and this host is not the leader, or if this host is in no
/// cluster any more or yet.
pub(crate) fn leader(call: Call<'_>, shard: ShardId) -> Result<Leader, Failure> {
    match call.door.route(shard) {
        Route::Here => Ok(Leader::Here),
        // Its registry stands still: what it says of leaders grows old.
        _ if call.handle().is_removed() => Err(status::failure(&Error::Removed)),
        _ if !call.door.is_joined() => Err(status::failure(&Error::NotJoined)),
        route if call.forwarded => Err(status::not_leader(shard, &route)),
        Route::There { host, service } if !service.is_empty() => Ok(Leader::At(host, service)),
        Route::There { .. } | Route::Nowhere => {
            Ok(Leader::Nobody(status::not_leader(shard, &Route::Nowhere)))
        }
    }
}

/// The waits of a call that found no leader.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(PAUSE_FIRST)
    }
}

impl Pauses {
    /// Waits before the next look.
    ///
    /// # Errors
    /// `failure` if there is no time for another one.
    pub(crate) async fn wait(&mut self, call: Call<'_>, failure: Failure) -> Result<(), Failure> {
        if call.deadline.left() <= self.0 {
            return Err(failure);
        }
        tokio::select! {
            () = sleep(self.0) => {}
            () = call.door.stopping() => return Err(failure),
        }
        self.0 = (self.0 * 2).min(PAUSE_MAX);
        Ok(())
    }
}

/// Asks the door of another host, once. The transport knows what broke, not where: `named` says that.
async fn ask<R: Pass>(
    call: Call<'_>,
    host: &HostId,
    service: &str,
    request: &R,
    named: fn(Failure, &HostId, &str) -> Failure,
) -> Result<R::Reply, Failure> {
    let kept = call.door.peers().call(host, service)?;
    let mut request = Request::new(request.clone());
    request.set_timeout(call.deadline.left());
    mark(request.metadata_mut(), &call.handle().identity().host);
    let expired = || if R::READS { status::read_expired() } else { status::write_expired() };
    let answer = timeout_at(call.deadline.at(), R::send(kept.answers(call.door.bodies()), request)).await;
    match answer {
        Ok(Ok(reply)) => {
            let mut reply = reply.into_inner();
            R::name(&mut reply, service);
            Ok(reply)
        }
        Ok(Err(said)) => Err(named(Failure::from_status(&said), host, service)),
        Err(_) => Err(expired()),
    }
}

/// Says in a call's metadata that this host has passed it on.
fn mark(metadata: &mut MetadataMap, host: &HostId) {
    // A name that cannot be a header's value is still a mark.
    let name = host.0.parse().unwrap_or(tonic::metadata::MetadataValue::from_static("?"));
    metadata.insert(FORWARDED_BY, name);
}

/// Returns whether the same call may be made again: nothing was done, or nothing can be done by it.
fn again<R: Pass>(failure: &Failure) -> bool {
    match failure.kind {
        Kind::Unavailable => true,
        Kind::OutcomeUnknown => R::READS && failure.reason != reason::DEADLINE_EXCEEDED,
        _ => false,
    }
}

/// Returns whether the way to the other host broke, or was never there.
fn broke(failure: &Failure) -> bool {
    [reason::UNREACHABLE, reason::OUTCOME_UNKNOWN].contains(&&*failure.reason)
}

/// Says which leader could not be reached, or lost an answer.
fn named(failure: Failure, host: &HostId, service: &str) -> Failure {
    if !broke(&failure) {
        return failure;
    }
    // Not UNREACHABLE: the client has reached this host, and shall not think otherwise.
    let reason = if failure.kind == Kind::Unavailable { reason::NO_LEADER } else { reason::OUTCOME_UNKNOWN };
    let message =
        format!("the call was passed on to the leader, host {host} at {service}: {}", failure.message);
    Failure::new(failure.kind, reason, message).with_retry_after(status::ELECTION_WAIT)
}
