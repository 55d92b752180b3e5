//! Events of a queue: pages, and a watch that goes on by itself when a host or a connection goes.
//!
//! A watch holds the token of the last batch it has returned and opens another stream behind it whenever one breaks: no
//! event is lost by that and none comes twice. Keep the token of what you have dealt with, and go on there after a restart.
//!
//! # Caveats
//! - The token moves when a batch is returned, not when it is dealt with: that is for the caller to remember.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;
use tonic::transport::Channel;
use z4_proto::MESSAGE_BYTES_MAX;
use z4_proto::convert;
use z4_proto::v1::events_client::EventsClient;
use z4_proto::{reason, v1};
use z4_types::{Kind, Millis, TaskId, Token};

use crate::backoff::Backoff;
use crate::call::{Again, deadline, learn, named};
use crate::client::incomplete;
use crate::endpoints::About;
use crate::task::pb_duration;
use crate::{Client, Error, EventType};

/// Without a word for so many heartbeats a stream is given up.
const HEARTBEATS_MISSED_MAX: u32 = 3;

/// Where to begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EventsFrom {
    /// With the oldest event that is kept.
    Earliest,
    /// With what happens from now on.
    #[default]
    Now,
    /// Behind what this token came with.
    Token(String),
}

/// Which events to watch; see [`Client::watch`].
#[derive(Debug, Clone)]
pub struct WatchEvents {
    /// The queue.
    pub queue: String,
    /// Where to begin.
    pub from: EventsFrom,
    /// Only events of these types; empty: all.
    pub types: Vec<EventType>,
    /// Only those of this task.
    pub task: Option<TaskId>,
    /// A batch comes at least this often, empty if nothing has happened; 1 s to 60 s.
    pub heartbeat: Duration,
    /// How long to try to go on when a stream broke. Before the first batch it is the client's deadline, if that is shorter.
    pub patience: Duration,
}

impl WatchEvents {
    /// Returns the wish for all events of `queue` from now on, with a heartbeat of 5 s and a patience of 60 s.
    #[must_use]
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            from: EventsFrom::Now,
            types: Vec::new(),
            task: None,
            heartbeat: Duration::from_secs(5),
            patience: Duration::from_secs(60),
        }
    }
}

/// One step in a task's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place among the events of the queue.
    pub sequence: u64,
    /// When it took effect, by the shard's clock.
    pub time: Millis,
    /// Whose.
    pub task: TaskId,
    /// What happened.
    pub event: EventType,
    /// When the task is due from now on: created, failed, updated, redriven, released.
    pub deliver_at: Option<Millis>,
    /// Created, updated.
    pub priority: Option<u8>,
    /// Created: its group.
    pub group: Option<String>,
    /// Created: its key.
    pub key: Option<String>,
    /// Leased: by whom.
    pub consumer: Option<String>,
    /// The lease, of an event that begins or ends one.
    pub token: Option<Token>,
    /// Leased: deliveries so far.
    pub deliveries: Option<u32>,
    /// Failed, dead: failures so far.
    pub failures: Option<u32>,
    /// Leased: until when.
    pub lease_until: Option<Millis>,
    /// Failed, dead: why, cut to 256 bytes.
    pub reason: Option<String>,
    /// To go on behind this event.
    pub resume_token: String,
}

impl Event {
    fn from_pb(pb: v1::Event) -> Result<Self, Error> {
        let time = |at: Option<z4_proto::Timestamp>| at.map(|at| convert::millis(at, "event")).transpose();
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let count = |count: u32| Some(count).filter(|count| *count > 0);
        Ok(Self {
            sequence: pb.sequence,
            time: time(pb.time)?.ok_or_else(|| incomplete("time of an event"))?,
            task: convert::task_id(&pb.task_id, "task_id")?,
            // A newer server may know more.
            event: EventType::try_from(pb.r#type).unwrap_or(EventType::Unspecified),
            deliver_at: time(pb.deliver_at)?,
            priority: pb.priority.map(|priority| u8::try_from(priority).unwrap_or(u8::MAX)),
            group: text(pb.group),
            key: text(pb.key),
            consumer: text(pb.consumer),
            token: Some(Token(pb.lease_token)).filter(|token| token.0 > 0),
            deliveries: count(pb.deliveries),
            failures: count(pb.failures),
            lease_until: time(pb.lease_until)?,
            reason: text(pb.reason),
            resume_token: pb.resume_token,
        })
    }
}

/// Events in order, and where to go on behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// The events; none: nothing has happened that was asked for.
    pub events: Vec<Event>,
    /// To go on behind them.
    pub resume_token: String,
    /// Of a page: there are events behind these already.
    pub more: bool,
}

impl EventBatch {
    fn new(events: Vec<v1::Event>, resume_token: String, more: bool) -> Result<Self, Error> {
        let events = events.into_iter().map(Event::from_pb).collect::<Result<_, _>>()?;
        Ok(Self { events, resume_token, more })
    }
}

fn events(channel: Channel) -> EventsClient<Channel> {
    EventsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn start(from: &EventsFrom) -> (String, i32) {
    match from {
        EventsFrom::Earliest => (String::new(), v1::EventsFrom::Earliest as i32),
        EventsFrom::Now => (String::new(), v1::EventsFrom::Now as i32),
        EventsFrom::Token(token) => (token.clone(), v1::EventsFrom::Unspecified as i32),
    }
}

impl Client {
    /// Returns one page of events, at most `limit`, without waiting. Of `wish` neither heartbeat nor patience count.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` with reason `EVENTS_OFF` or `EVENTS_COMPACTED`; `Invalid` with reason `RESUME_TOKEN_INVALID`; any other
    /// kind.
    pub async fn list_events(&self, wish: &WatchEvents, limit: u32) -> Result<EventBatch, Error> {
        let (resume_token, from) = start(&wish.from);
        let request = v1::ListEventsRequest {
            queue: wish.queue.clone(),
            resume_token,
            from,
            types: wish.types.iter().map(|kind| *kind as i32).collect(),
            task_id: wish.task.map(|task| task.to_string()).unwrap_or_default(),
            page_size: limit,
            wait: None,
        };
        let about = About::Queue(&wish.queue);
        let send = |c, r| async move { events(c).list_events(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        EventBatch::new(reply.events, reply.resume_token, reply.more)
    }

    /// Returns a watch of a queue's events. Nothing is sent before the first batch is asked for.
    ///
    /// ```no_run
    /// # async fn example(client: z4_client::Client) -> Result<(), z4_client::Error> {
    /// use z4_client::{EventsFrom, WatchEvents};
    ///
    /// let mut watch = client.watch(WatchEvents { from: EventsFrom::Earliest, ..WatchEvents::new("acme/emails") });
    /// loop {
    ///     let batch = watch.next().await?;
    ///     for event in batch.events {
    ///         println!("{} {:?} {}", event.sequence, event.event, event.task);
    ///     }
    ///     // Write batch.resume_token down with what you made of the events.
    /// }
    /// # }
    /// ```
    pub fn watch(&self, wish: WatchEvents) -> EventStream {
        EventStream { client: self.clone(), wish, open: None, began: false }
    }
}

/// A watch; see [`Client::watch`].
pub struct EventStream {
    client: Client,
    /// Its start moves on with every batch.
    wish: WatchEvents,
    open: Option<Open>,
    /// There was a batch: it is known that there is something to go on with.
    began: bool,
}

struct Open {
    address: String,
    stream: Streaming<v1::WatchResponse>,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("wish", &self.wish).finish_non_exhaustive()
    }
}

impl EventStream {
    /// Returns where the next batch begins: what to keep, to go on there later. None before there was a batch.
    #[must_use]
    pub fn resume_token(&self) -> Option<&str> {
        match &self.wish.from {
            EventsFrom::Token(token) => Some(token),
            _ => None,
        }
    }

    /// Waits for the next batch: events, or an empty one at least every heartbeat. Opens another stream where one breaks.
    ///
    /// Cancel safe: a dropped call loses nothing, so it may stand in a `select!`.
    ///
    /// # Errors
    /// As [`Client::list_events`]; one that is retryable only after trying as long as the wish's patience. The watch may be
    /// asked again after any error.
    pub async fn next(&mut self) -> Result<EventBatch, Error> {
        let patience = self.wish.patience;
        let patience = if self.began { patience } else { patience.min(self.client.timeout()) };
        let until = Instant::now() + patience;
        let (mut backoff, mut refused) = (Backoff::default(), 0);
        loop {
            let (address, error) = match self.receive().await {
                Ok(batch) => return Ok(batch),
                Err(failed) => failed,
            };
            self.open = None;
            let endpoints = self.client.endpoints();
            let led = learn(endpoints, About::Queue(&self.wish.queue), &address, &error);
            refused += usize::from(error.reason() == reason::UNREACHABLE);
            let nobody = !self.began && self.client.fails_fast() && refused >= endpoints.len();
            if !error.is_retryable() || nobody {
                return Err(error);
            }
            let wait = if led { Duration::ZERO } else { backoff.next(endpoints.asked_to_wait(&error)) };
            if Instant::now() + wait >= until {
                return Err(error);
            }
            sleep(wait).await;
        }
    }

    /// Takes a batch from the stream, which it opens if there is none.
    async fn receive(&mut self) -> Result<EventBatch, (String, Error)> {
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(open(&self.client, &self.wish).await?),
        };
        let address = open.address.clone();
        let failed = |error| (address.clone(), named(error, &address));
        let silence = self.wish.heartbeat.saturating_mul(HEARTBEATS_MISSED_MAX).max(self.client.timeout());
        let message = match timeout(silence, open.stream.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => {
                let what = format!("{address} has ended the stream of events");
                return Err(failed(Error::new(Kind::Unavailable, reason::DRAINING, what)));
            }
            Ok(Err(status)) => return Err(failed(status.into())),
            Err(_) => return Err(failed(deadline(&address, silence))),
        };
        self.client.endpoints().leads(About::Queue(&self.wish.queue), &message.forwarded_to);
        let batch = EventBatch::new(message.events, message.resume_token, false).map_err(failed)?;
        self.wish.from = EventsFrom::Token(batch.resume_token.clone());
        self.began = true;
        Ok(batch)
    }
}

async fn open(client: &Client, wish: &WatchEvents) -> Result<Open, (String, Error)> {
    let (resume_token, from) = start(&wish.from);
    let request = v1::WatchRequest {
        queue: wish.queue.clone(),
        resume_token,
        from,
        types: wish.types.iter().map(|kind| *kind as i32).collect(),
        task_id: wish.task.map(|task| task.to_string()).unwrap_or_default(),
        heartbeat: Some(pb_duration(wish.heartbeat)),
    };
    let (address, channel) = client.endpoints().to(About::Queue(&wish.queue));
    let opened = timeout(client.timeout(), async { events(channel).watch(request).await }).await;
    match opened {
        Ok(Ok(response)) => {
            client.look_around();
            Ok(Open { address, stream: response.into_inner() })
        }
        Ok(Err(status)) => {
            let error = named(status.into(), &address);
            Err((address, error))
        }
        Err(_) => {
            let error = deadline(&address, client.timeout());
            Err((address, error))
        }
    }
}
