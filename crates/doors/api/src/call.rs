//! One call, as every verb gets it: the door, when it must have ended, and whether another host passed it on.
//!
//! A verb says which shard it is about and what it does where that shard is led; [`Call::serve`] brings the two together,
//! wherever that is, and [`Call::serve_stale`] where any replica of the shard will do. See `forward.rs` for the way to
//! another host.

use std::future::Future;

use tokio::time::timeout_at;
use tonic::metadata::MetadataMap;
use z4_host::{Error, Handle, Route};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_types::ShardId;

use crate::deadline::Deadline;
use crate::door::Door;
use crate::forward::{self, Pass, Pauses};
use crate::status;

/// Gives a verb the call and the request, and makes its failure a status.
macro_rules! unary {
    ($self:ident, $request:ident, $verb:path) => {{
        let call = $crate::call::Call::new(&$self.door, $request.metadata());
        $verb(call, $request.into_inner()).await.map(tonic::Response::new).map_err(tonic::Status::from)
    }};
}
pub(crate) use unary;

/// Metadata of a call that another host has passed on: the name of that host.
pub(crate) const FORWARDED_BY: &str = "z4-forwarded-by";

/// See the module essay.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) door: &'a Door,
    pub(crate) deadline: Deadline,
    /// Another host has passed it on, so this one answers it or refuses it.
    pub(crate) forwarded: bool,
}

impl<'a> Call<'a> {
    /// Returns a call with this metadata that began now.
    pub(crate) fn new(door: &'a Door, metadata: &MetadataMap) -> Self {
        Self { door, deadline: Deadline::of(metadata), forwarded: is_forwarded(metadata) }
    }

    /// Returns a piece of a stream's work that began now.
    pub(crate) fn of_stream(door: &'a Door, forwarded: bool) -> Self {
        Self { door, deadline: Deadline::default_from_now(), forwarded }
    }

    pub(crate) fn handle(&self) -> &'a Handle {
        self.door.handle()
    }

    /// Serves a request where `shard` is led: by `local` on this host, or by the door of another, which is named in the
    /// reply. Waits while nobody leads it.
    ///
    /// # Errors
    /// What `local` or the other host said; `Unavailable` if no leader could be asked in time.
    pub(crate) async fn serve<R, Answer>(
        self,
        shard: ShardId,
        request: R,
        local: impl FnOnce(R) -> Answer,
    ) -> Result<R::Reply, Failure>
    where
        R: Pass,
        Answer: Future<Output = Result<R::Reply, Failure>>,
    {
        // The usual way first, with nothing in it.
        if self.door.route(shard) != Route::Here
            && let Some(reply) = forward::pass(self, shard, &request).await?
        {
            return Ok(reply);
        }
        local(request).await
    }

    /// Serves a request from any replica of `shard`, whether or not the shard is led: by `local` on this host, and if
    /// that says NO_REPLICA, by the door of a host that holds one. Waits while there is none.
    ///
    /// # Errors
    /// What `local` or another host said; `Unavailable` if none that holds a replica could be asked in time.
    pub(crate) async fn serve_stale<R, Answer>(
        self,
        shard: ShardId,
        request: R,
        local: impl Fn(R) -> Answer,
    ) -> Result<R::Reply, Failure>
    where
        R: Pass,
        Answer: Future<Output = Result<R::Reply, Failure>>,
    {
        let mut pauses = Pauses::default();
        loop {
            // Each time: its data may have come by now.
            let failure = match local(request.clone()).await {
                Err(failure) if failure.reason == reason::NO_REPLICA && !self.forwarded => failure,
                answer => return answer,
            };
            let failure = match forward::replicas(self, shard, &request, failure).await {
                Err(failure) if forward::may_differ_elsewhere(&failure) => failure,
                answer => return answer,
            };
            pauses.wait(self, failure).await?;
        }
    }

    /// Waits for a call on this host that changes something.
    ///
    /// # Errors
    /// What the host said, or that the outcome is unknown because time is up.
    pub(crate) async fn write<T>(self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        match timeout_at(self.deadline.at(), call).await {
            Ok(result) => result.map_err(|error| self.door.failure(&error)),
            Err(_) => Err(status::write_expired()),
        }
    }

    /// Waits for a call on this host that changes nothing.
    ///
    /// # Errors
    /// What the host said, or that time is up.
    pub(crate) async fn read<T>(self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        match timeout_at(self.deadline.at(), call).await {
            Ok(result) => result.map_err(|error| self.door.failure(&error)),
            Err(_) => Err(status::read_expired()),
        }
    }
}

/// Returns whether another host has passed on a call with this metadata.
pub(crate) fn is_forwarded(metadata: &MetadataMap) -> bool {
    metadata.contains_key(FORWARDED_BY)
}
