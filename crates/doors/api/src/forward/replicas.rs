//! Stale reads for a shard of which this host has no data: passed on to a host that holds a replica, once.
//!
//! Each that holds one is asked in turn, until one has answered; each gets an equal part of the time that is left, so
//! that one without power, which says nothing at all, does not take the time of those behind it. Nobody needs to lead
//! the shard. The host that is asked answers from what it has applied, or says NO_REPLICA; it passes nothing on.
//!
//! # Not here
//! - Who holds one, and in which order they are asked: [`z4_host::Handle::holders`].
//! - This host's own replica, and another round when all have failed: [`Call::serve_stale`].
//! # Caveats
//! - A host that does not answer is not remembered: each call finds out again, in a second at most (`peers.rs`).

use z4_proto::reason;
use z4_proto::status::Failure;
use z4_types::{HostId, Kind, ShardId};

use super::{Pass, ask, broke};
use crate::call::Call;
use crate::status;

/// Asks the hosts that hold replicas of `shard`, one after the other. `own` is why this host does not answer.
///
/// # Errors
/// What a host said that is an answer, or why the last one gave none; `own` if there is no other.
pub(crate) async fn replicas<R: Pass>(
    call: Call<'_>,
    shard: ShardId,
    request: &R,
    own: Failure,
) -> Result<R::Reply, Failure> {
    let hosts = call.handle().holders(shard);
    let mut failure = own;
    for (at, (host, service)) in hosts.iter().enumerate() {
        let left = u32::try_from(hosts.len() - at).expect("a shard has few replicas");
        let turn = Call { deadline: call.deadline.part(left), ..call };
        match ask(turn, host, service, request, named).await {
            Err(why) if may_differ_elsewhere(&why) => failure = why,
            answer => return answer,
        }
    }
    Err(failure)
}

/// Returns whether another replica, or the same one a little later, may answer where this one has not.
pub(crate) fn may_differ_elsewhere(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::Unavailable | Kind::OutcomeUnknown | Kind::Overloaded)
}

/// Says which host could not be reached; its own words stay as they are.
fn named(failure: Failure, host: &HostId, service: &str) -> Failure {
    if !broke(&failure) {
        return failure;
    }
    let what = format!(
        "no host that holds a replica of the shard has answered; the last one asked was host {host} at {service}: {}",
        failure.message
    );
    // Nothing is done by a read, so nothing is in doubt.
    Failure::new(Kind::Unavailable, reason::NO_REPLICA, what).with_retry_after(status::ELECTION_WAIT)
}
