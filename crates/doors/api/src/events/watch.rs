//! Events as they happen: pages that are waited for, one behind the other.
//!
//! A watch is a row of calls for a page (`list.rs`), each served where the shard is led then: here, or passed on as any call
//! is. So it goes on over a change of the leader, and a stream never has to move. A page is asked for when the client has
//! taken the one before: a slow client makes no queue here, it falls behind in the rows, and is told so if they go.
//!
//! # Invariants
//! - A token is sent with the events in front of it, in one message: who has the message has seen all up to its token.
//! - At most two pages of a watch are in memory: one on its way into HTTP/2 and one that waits for it.
//! # Caveats
//! - While nobody leads the shard for longer than `PATIENCE` the stream ends, to be opened again by its client.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use z4_proto::convert::{duration, event_filter, events_start, pb_duration, queue_name};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::Kind;

use super::list;
use crate::call::Call;
use crate::door::Door;
use crate::forward::Pauses;
use crate::status;

/// Watch streams of this door; in the sum of `bodies.rs`. Past it: refused with a delay.
pub(super) const WATCHES_MAX: usize = 256;
/// Events of one message. Usually some 20 KiB; enough for a hundred thousand a second.
const PAGE_EVENTS: u32 = 64;
/// A message comes this often when the client does not say.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(5);
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);
/// One wait: well within the deadline of a call.
const WAIT: Duration = Duration::from_secs(5);
/// An election takes less; after this the client had better try another host.
const PATIENCE: Duration = Duration::from_secs(15);
/// When a refused client may come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type Reply = Result<v1::WatchResponse, Status>;

/// Opens a stream; its pages are fetched in a task of its own.
///
/// # Errors
/// If the request cannot be, or there are too many streams. What the queue has to say comes in the stream.
pub(super) fn watch(
    door: &Door,
    places: &Arc<Semaphore>,
    request: v1::WatchRequest,
    forwarded: bool,
) -> Result<ReceiverStream<Reply>, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    events_start(&queue, &request.resume_token, request.from)?;
    event_filter(&request.types, &request.task_id)?;
    let heartbeat = request.heartbeat.map(|span| duration(span, "heartbeat")).transpose()?;
    let heartbeat = heartbeat.map_or(HEARTBEAT_DEFAULT, |span| Duration::from_millis(span.0));
    if !(HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&heartbeat) {
        let what = format_args!("is {heartbeat:?}; give {HEARTBEAT_MIN:?} to {HEARTBEAT_MAX:?}");
        return Err(Failure::invalid("heartbeat", reason::DURATION_OUT_OF_RANGE, what));
    }
    if door.is_stopping() {
        return Err(status::draining());
    }
    let place = Arc::clone(places).try_acquire_owned().map_err(|_| {
        let what =
            format!("{WATCHES_MAX} watches are open on this host, the limit; go to another, or back off");
        Failure::new(Kind::Overloaded, reason::OVERLOADED, what).with_retry_after(RETRY_AFTER)
    })?;
    let pages = Pages {
        door: door.clone(),
        forwarded,
        request: v1::ListEventsRequest {
            queue: request.queue,
            resume_token: request.resume_token,
            from: request.from,
            types: request.types,
            task_id: request.task_id,
            page_size: PAGE_EVENTS,
            wait: None,
        },
    };
    let (replies, stream) = mpsc::channel(1);
    tokio::spawn(run(pages, heartbeat, replies, place));
    Ok(ReceiverStream::new(stream))
}

/// Sends pages until the client is gone, or there are no more to be had.
async fn run(
    mut pages: Pages,
    heartbeat: Duration,
    replies: mpsc::Sender<Reply>,
    _place: OwnedSemaphorePermit,
) {
    let mut due = Instant::now();
    loop {
        // First room, then the page: the client's pace is ours.
        let Ok(room) = replies.reserve().await else { return };
        let page = tokio::select! {
            page = pages.next(due) => page,
            () = replies.closed() => return,
        };
        match page {
            Ok(page) => room.send(Ok(page)),
            Err(failure) => return room.send(Err(failure.into())),
        }
        due = Instant::now() + heartbeat;
    }
}

/// The pages of one watch.
struct Pages {
    door: Door,
    /// Another host has passed the stream on.
    forwarded: bool,
    /// For the next page.
    request: v1::ListEventsRequest,
}

impl Pages {
    /// Returns the next page with events; when `due`, also one without.
    async fn next(&mut self, due: Instant) -> Result<v1::WatchResponse, Failure> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let wait = u64::try_from(left.min(WAIT).as_millis()).unwrap_or(0);
            self.request.wait = (wait > 0).then(|| pb_duration(z4_types::Duration(wait)));
            let page = self.page().await?;
            // Whoever began "now" has a place from here on.
            self.request.resume_token.clone_from(&page.resume_token);
            self.request.from = v1::EventsFrom::Unspecified as i32;
            if !page.events.is_empty() || wait == 0 {
                let v1::ListEventsResponse { events, resume_token, forwarded_to, .. } = page;
                return Ok(v1::WatchResponse { events, resume_token, forwarded_to });
            }
        }
    }

    /// Asks for a page until somebody who leads the shard has answered.
    async fn page(&self) -> Result<v1::ListEventsResponse, Failure> {
        let until = Instant::now() + PATIENCE;
        let mut pauses = Pauses::default();
        loop {
            if self.door.is_stopping() {
                return Err(status::draining());
            }
            let call = Call::of_stream(&self.door, self.forwarded);
            let failure = tokio::select! {
                page = list::list(call, self.request.clone()) => match page {
                    Err(failure) if may_pass(&failure) && !self.forwarded => failure,
                    page => return page,
                },
                () = self.door.stopping() => return Err(status::draining()),
            };
            if Instant::now() >= until {
                return Err(failure);
            }
            pauses.wait(Call::of_stream(&self.door, self.forwarded), failure).await?;
        }
    }
}

/// Returns whether the same page may be had a moment later. Nothing is changed by asking.
fn may_pass(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::Unavailable | Kind::OutcomeUnknown | Kind::Overloaded)
}
