//! Service `z4.v1.Events`: one verb, one file; this is the dispatch.

mod list;
mod watch;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};
use z4_proto::v1;
use z4_proto::v1::events_server::Events;

use crate::call::{Call, is_forwarded};
use crate::deadline::Deadline;
use crate::door::Door;

/// See the module essay.
pub(crate) struct EventsService {
    door: Door,
    /// Places of watch streams.
    places: Arc<Semaphore>,
}

impl EventsService {
    pub(crate) fn new(door: Door) -> Self {
        Self { door, places: Arc::new(Semaphore::new(watch::WATCHES_MAX)) }
    }
}

#[async_trait]
impl Events for EventsService {
    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let deadline = Deadline::allowing(request.metadata(), list::WAIT_MAX);
        let call = Call { deadline, ..Call::new(&self.door, request.metadata()) };
        list::list(call, request.into_inner()).await.map(Response::new).map_err(Status::from)
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let forwarded = is_forwarded(request.metadata());
        let watching = watch::watch(&self.door, &self.places, request.into_inner(), forwarded);
        watching.map(Response::new).map_err(Status::from)
    }
}
