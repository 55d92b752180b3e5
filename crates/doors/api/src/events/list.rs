//! A page of a queue's events, which may be waited for.
//!
//! # Invariants
//! - A call that waits is entered as a watcher before it reads: an event in between wakes it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use z4_host::{EventsRequest, Watcher};
use z4_proto::convert::{duration, event_filter, events_start, pb_event, queue_name, resume_token};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::{EventPage, Events, Position, ResumeToken, Start};
use z4_types::limits::LIST_PAGE_MAX;
use z4_types::{Kind, QueueName};

use crate::call::Call;

/// Longest wait for the first event.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);
/// Events of a page when the caller does not say.
const PAGE_DEFAULT: u32 = 100;

pub(super) async fn list(
    call: Call<'_>,
    request: v1::ListEventsRequest,
) -> Result<v1::ListEventsResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    call.serve(shard, request, |request| here(call, queue, request)).await
}

async fn here(
    call: Call<'_>,
    queue: QueueName,
    request: v1::ListEventsRequest,
) -> Result<v1::ListEventsResponse, Failure> {
    let wait = request.wait.map(|span| duration(span, "wait")).transpose()?;
    let wait = wait.map_or(Duration::ZERO, |span| Duration::from_millis(span.0).min(WAIT_MAX));
    let asked = if request.page_size == 0 { PAGE_DEFAULT } else { request.page_size.min(LIST_PAGE_MAX) };
    let mut wish = EventsRequest {
        start: events_start(&queue, &request.resume_token, request.from)?,
        filter: event_filter(&request.types, &request.task_id)?,
        limit: asked as usize,
        queue,
    };
    let until = call.deadline.within(wait);
    let watcher = if wait.is_zero() {
        None
    } else {
        let watcher = call.handle().watch_events(wish.queue.clone());
        Some(watcher.map_err(|error| call.door.failure(&error))?)
    };
    loop {
        let page = page(&wish.queue, call.read(call.handle().events(wish.clone())).await?)?;
        wish.start = Start::At(page.next);
        if page.events.is_empty() {
            match &watcher {
                Some(_) if page.more && Instant::now() < until => continue,
                Some(watcher) if !page.more && happened(call, watcher, until).await? => continue,
                _ => {}
            }
        }
        let EventPage { events, next, more } = page;
        let queue = &wish.queue;
        return Ok(v1::ListEventsResponse {
            events: events.into_iter().map(|event| pb_event(queue, next, event)).collect(),
            resume_token: token(queue, next),
            more,
            forwarded_to: String::new(),
        });
    }
}

/// Waits for a new event until then; false if there was none.
async fn happened(call: Call<'_>, watcher: &Watcher, until: Instant) -> Result<bool, Failure> {
    tokio::select! {
        biased;
        happened = watcher.happened() => happened.map(|()| true).map_err(|why| call.door.failure(&why)),
        () = call.door.stopping() => Ok(false),
        () = sleep_until(until) => Ok(false),
    }
}

fn token(queue: &QueueName, position: Position) -> String {
    resume_token(&ResumeToken { queue: queue.clone(), position })
}

/// Returns the page, or why there is none.
fn page(queue: &QueueName, found: Events) -> Result<EventPage, Failure> {
    Err(match found {
        Events::Page(page) => return Ok(page),
        Events::NoQueue => {
            let what =
                format!("queue {queue} does not exist: no task was ever created in it, or it was deleted");
            Failure::new(Kind::NotFound, reason::QUEUE_NOT_FOUND, what)
        }
        Events::Off => {
            let what = format!(
                "queue {queue} keeps no events; turn them on with `z4t queue set {queue} --events-kept N`"
            );
            Failure::new(Kind::Conflict, reason::EVENTS_OFF, what)
        }
        Events::Compacted { oldest } => {
            let what = format!(
                "events behind the resume token are not kept any more: there were more than are kept, or events were off, \
                 or queue {queue} was deleted and made again; the oldest event is {}, go on from {}",
                oldest.sequence(),
                token(queue, oldest)
            );
            Failure::new(Kind::Conflict, reason::EVENTS_COMPACTED, what)
        }
        Events::Ahead => {
            let what = "lies behind the last event there is; begin anew without it";
            Failure::invalid("resume_token", reason::RESUME_TOKEN_INVALID, what)
        }
    })
}
