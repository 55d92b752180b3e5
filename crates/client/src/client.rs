//! The client itself: the unary calls, and the doors to producers, consumers and streams.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use z4_proto::MESSAGE_BYTES_MAX;
use z4_proto::convert::{self, timestamp};
use z4_proto::v1::admin_client::AdminClient;
use z4_proto::v1::tasks_client::TasksClient;
use z4_proto::{reason, v1};
use z4_types::{Kind, Millis, ShardId, TaskId};

use crate::call::{Again, Rules, SPAN_MAX, call};
use crate::endpoints::{About, Endpoints};
use crate::task::pb_duration;
use crate::{
    ConsumerBuilder, Created, Error, Freshness, Info, NewTask, ProducerBuilder, Pull, PullStream, Queue,
    Settlement, ShardPlacement, ShardVerdict, StoredTask, Task, TaskState, random,
};

/// Deadline of a call that names none.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Deadline of the question for the cluster's hosts, which nobody waits for.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// A long poll's deadline is its wait and this much for the way.
const LEASE_WAIT_MARGIN: Duration = Duration::from_secs(2);

/// A connection to z4. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoints: Endpoints,
    rules: Rules,
}

/// Sets up a [`Client`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    addresses: Vec<String>,
    rules: Rules,
}

impl ClientBuilder {
    /// Every call ends within this time; 5 s unless set, 24 h at most.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.rules.timeout = timeout.min(SPAN_MAX);
        self
    }

    /// Unary calls fail once every address has refused the connection, instead of trying until their deadline. For
    /// tools with a person in front of them.
    pub fn fail_fast(mut self, on: bool) -> Self {
        self.rules.fail_fast = on;
        self
    }

    /// Returns the client. Nothing is sent yet.
    ///
    /// # Errors
    /// `Invalid` if an address is not `host:port`, or there is none.
    pub fn build(self) -> Result<Client, Error> {
        let endpoints = Endpoints::new(&self.addresses)?;
        Ok(Client { inner: Arc::new(Inner { endpoints, rules: self.rules }) })
    }
}

/// What to lease; see [`Client::lease`].
#[derive(Debug, Clone)]
pub struct Lease {
    /// The queue.
    pub queue: String,
    /// Shown with the tasks it holds; empty: the server chooses.
    pub consumer: String,
    /// Most tasks, 1 to 1,000.
    pub max_tasks: u32,
    /// Stop before this many payload bytes, but return at least one task; 0: 8 MiB.
    pub max_bytes: u64,
    /// How long each lease holds, 100 ms to 12 h; None: as long as the queue says.
    pub lease: Option<Duration>,
    /// Wait so long for the first task, 24 h at most.
    pub wait: Duration,
}

impl Lease {
    /// Returns the wish for one task of `queue`, without waiting.
    #[must_use]
    pub fn one(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            consumer: String::new(),
            max_tasks: 1,
            max_bytes: 0,
            lease: None,
            wait: Duration::ZERO,
        }
    }
}

/// Which tasks to list; see [`Client::list`].
#[derive(Debug, Clone, Default)]
pub struct ListTasks {
    /// The queue.
    pub queue: String,
    /// Only in this state.
    pub state: Option<TaskState>,
    /// Only due at or after this.
    pub from: Option<Millis>,
    /// Only due before this.
    pub to: Option<Millis>,
    /// Only such that pass, as `metadata.user = "u1" AND failures > 2`; empty: all. A page may then be empty and not the
    /// last.
    pub filter: String,
    /// Most tasks of the page, 1 to 1,000; 0: 100.
    pub page_size: u32,
    /// `next` of the page before; empty: the first page.
    pub page_token: String,
    /// Any host that holds the queue's shard may answer from what it has: perhaps behind, and also while no majority
    /// can be reached. All pages of a list say the same.
    pub stale: bool,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What it holds.
    pub items: Vec<T>,
    /// Token of the next page; None on the last.
    pub next: Option<String>,
    /// How fresh a stale page is. None: it has everything.
    pub freshness: Option<Freshness>,
}

/// The answer to a ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// The host that answered.
    pub server_id: String,
    /// Its wall clock.
    pub time: Millis,
    /// From call to answer.
    pub round_trip: Duration,
    /// What is not as it should be although the host serves: a sentence each, for people.
    pub warnings: Vec<String>,
}

/// What `grpc.health.v1` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It is there and does not serve.
    NotServing,
    /// It does not know, or does not know the service.
    Unknown,
}

pub(crate) fn tasks(channel: Channel) -> TasksClient<Channel> {
    TasksClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns where the hosts of the cluster serve clients.
fn services(info: &Info) -> impl Iterator<Item = &str> {
    info.members.iter().map(|member| member.service_address.as_str()).filter(|address| !address.is_empty())
}

pub(crate) fn incomplete(what: &str) -> Error {
    Error::new(Kind::Internal, reason::INTERNAL, format!("the server's answer has no {what}"))
}

/// Spreads the failures of a batch over its items.
pub(crate) fn per_item<T>(
    items: impl Iterator<Item = T>,
    errors: Vec<v1::ItemError>,
) -> Vec<Result<T, Error>> {
    let mut results: Vec<Result<T, Error>> = items.map(Ok).collect();
    for error in errors {
        if let Some(slot) = results.get_mut(error.index as usize) {
            *slot = Err(error.failure.map_or_else(|| incomplete("failure"), Error::from));
        }
    }
    results
}

/// A task's id names its shard.
pub(crate) fn about(id: TaskId) -> About<'static> {
    About::Shard(id.shard())
}

/// Returns one id or error per task of a create.
pub(crate) fn created(
    asked: usize,
    ids: Vec<String>,
    errors: Vec<v1::ItemError>,
) -> Result<Vec<Result<TaskId, Error>>, Error> {
    if ids.len() != asked {
        return Err(incomplete("id for each task"));
    }
    let results = per_item(ids.into_iter(), errors).into_iter();
    Ok(results.map(|item| Ok(convert::task_id(&item?, "ids")?)).collect())
}

impl Client {
    /// Returns a client of the cluster that has hosts at `addresses` (`host:port`, the port 6355 unless named).
    /// Nothing is sent yet: connections are made when needed, and made again when they break.
    ///
    /// # Errors
    /// `Invalid` if an address is not `host:port`, or there is none.
    pub fn connect<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        Self::builder(addresses).build()
    }

    /// Returns a builder, for a deadline of one's own.
    pub fn builder<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> ClientBuilder {
        ClientBuilder {
            addresses: addresses.into_iter().map(Into::into).collect(),
            rules: Rules { timeout: TIMEOUT_DEFAULT, fail_fast: false },
        }
    }

    /// Returns a builder of a producer for `queue`: many pushes, batched.
    pub fn producer(&self, queue: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), queue.into())
    }

    /// Returns a builder of a consumer of `queue`: a handler for each task.
    pub fn consumer(&self, queue: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), queue.into())
    }

    /// Opens a stream of deliveries without a handler.
    ///
    /// # Errors
    /// Any kind; `Invalid` names the field.
    pub async fn pull(&self, pull: Pull) -> Result<PullStream, Error> {
        PullStream::open(self, pull).await
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.inner.endpoints
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.inner.rules.timeout
    }

    pub(crate) fn fails_fast(&self) -> bool {
        self.inner.rules.fail_fast
    }

    pub(crate) async fn call<Req, Rep, Send, Answer>(
        &self,
        about: About<'_>,
        again: Again,
        request: Req,
        send: Send,
    ) -> Result<Rep, Error>
    where
        Req: Clone,
        Send: Fn(Channel, tonic::Request<Req>) -> Answer,
        Answer: Future<Output = Result<tonic::Response<Rep>, tonic::Status>>,
    {
        let reply = call(self.endpoints(), self.inner.rules, about, again, request, send).await?;
        self.look_around();
        Ok(reply)
    }

    /// Learns the cluster's other hosts, now and then, in the background: from one address all are known, before that one
    /// fails. A tool that fails fast is gone by then.
    pub(crate) fn look_around(&self) {
        if self.inner.rules.fail_fast || !self.endpoints().look_around() {
            return;
        }
        let client = self.clone();
        tokio::spawn(async move {
            let rules = Rules { timeout: LOOK_TIMEOUT, fail_fast: true };
            let send = |c, r| async move { admin(c).info(r).await };
            let request = v1::InfoRequest {};
            match call(client.endpoints(), rules, About::Nothing, Again::IfNotDone, request, send).await {
                Ok(info) => client.endpoints().learn(services(&info)),
                // Whoever has a call to make finds out by itself.
                Err(error) => tracing::debug!(%error, "the cluster's hosts are not known"),
            }
        });
    }

    /// Creates one task; durable on a majority when it returns. Retried under one request id.
    ///
    /// # Errors
    /// Any kind; after `OutcomeUnknown` the task may exist.
    pub async fn create(&self, queue: &str, task: NewTask) -> Result<TaskId, Error> {
        self.make(queue, task).await.map(|made| made.id)
    }

    /// As [`Client::create`], and tells whether the answer is a task that was there before with the same key.
    ///
    /// # Errors
    /// As [`Client::create`]; `AlreadyExists`, with [`Error::task`], if the key is taken and the policy says so.
    pub async fn make(&self, queue: &str, task: NewTask) -> Result<Created, Error> {
        let mut task = task.0;
        if task.request_id.is_empty() {
            task.request_id = random::request_id();
        }
        let request =
            v1::CreateTaskRequest { queue: queue.into(), task: Some(task), request_id: String::new() };
        let about = About::Queue(queue);
        let send = |c, r| async move { tasks(c).create_task(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(Created { id: convert::task_id(&reply.id, "id")?, existed: reply.existed })
    }

    /// Creates tasks of one queue in one call, at most 8,192; one result each, in order.
    ///
    /// # Errors
    /// Any kind, for the whole batch.
    pub async fn create_batch(
        &self,
        queue: &str,
        new: Vec<NewTask>,
    ) -> Result<Vec<Result<TaskId, Error>>, Error> {
        let asked = new.len();
        let request = v1::BatchCreateTasksRequest {
            queue: queue.into(),
            tasks: new.into_iter().map(|task| task.0).collect(),
            request_id: random::request_id(),
        };
        let about = About::Queue(queue);
        let send = |c, r| async move { tasks(c).batch_create_tasks(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        created(asked, reply.ids, reply.errors)
    }

    /// Leases due tasks of one queue. None due is no error.
    ///
    /// # Errors
    /// Any kind; after `OutcomeUnknown` tasks may be leased that come back when the lease ends.
    pub async fn lease(&self, lease: Lease) -> Result<Vec<Task>, Error> {
        let queue: Arc<str> = lease.queue.as_str().into();
        let wait = lease.wait.min(SPAN_MAX);
        let request = v1::LeaseTasksRequest {
            queue: lease.queue,
            consumer: lease.consumer,
            max_tasks: lease.max_tasks,
            max_bytes: lease.max_bytes,
            lease_duration: lease.lease.map(pb_duration),
            wait: (!wait.is_zero()).then(|| pb_duration(wait)),
        };
        let timeout = self.timeout().max(wait.saturating_add(LEASE_WAIT_MARGIN));
        let rules = Rules { timeout, ..self.inner.rules };
        let send = |c, r| async move { tasks(c).lease_tasks(r).await };
        let about = About::Queue(&queue);
        let reply = call(self.endpoints(), rules, about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        reply.tasks.into_iter().map(|task| Task::from_pb(task, &queue)).collect()
    }

    /// Settles leases; one result each, in order.
    ///
    /// # Errors
    /// Any kind, for the whole batch. After `OutcomeUnknown` send it again; what was done then answers `LEASE_LOST`
    /// or `TASK_NOT_FOUND`.
    pub async fn settle(&self, words: &[Settlement]) -> Result<Vec<Result<(), Error>>, Error> {
        self.settle_pb(words.iter().map(Settlement::to_pb).collect()).await
    }

    pub(crate) async fn settle_pb(
        &self,
        settlements: Vec<v1::Settlement>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let asked = settlements.len();
        let first = settlements.first().and_then(|word| word.id.parse().ok());
        let about = first.map_or(About::Nothing, about);
        let request = v1::SettleRequest { settlements };
        let send = |c, r| async move { tasks(c).settle(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(per_item(std::iter::repeat_n((), asked), reply.errors))
    }

    /// Returns one task, whatever its state.
    ///
    /// # Errors
    /// `NotFound` if it never was or has ended; any other kind.
    pub async fn get(&self, id: TaskId) -> Result<StoredTask, Error> {
        let request = v1::GetTaskRequest { id: id.to_string(), ..Default::default() };
        let send = |c, r| async move { tasks(c).get_task(r).await };
        let reply = self.call(about(id), Again::Always, request, send).await?;
        self.endpoints().leads(about(id), &reply.forwarded_to);
        StoredTask::from_pb(reply.task.ok_or_else(|| incomplete("task"))?)
    }

    /// Returns one task as any host that holds its shard has it, and how fresh that is: it may be behind, and it is
    /// answered also while no majority can be reached. None: a host of an older version has answered, which asks the
    /// leader.
    ///
    /// # Errors
    /// As [`Client::get`]; `NotFound` also if the task is newer than the answer.
    pub async fn get_stale(&self, id: TaskId) -> Result<(StoredTask, Option<Freshness>), Error> {
        let request = v1::GetTaskRequest { id: id.to_string(), stale: true, ..Default::default() };
        let send = |c, r| async move { tasks(c).get_task(r).await };
        // Of no use to look for a leader, and who answers need not be one.
        let reply = self.call(About::Nothing, Again::Always, request, send).await?;
        let freshness = reply.freshness.map(Freshness::from_pb).transpose()?;
        Ok((StoredTask::from_pb(reply.task.ok_or_else(|| incomplete("task"))?)?, freshness))
    }

    /// Returns one page of the tasks of a queue, by the time they are due.
    ///
    /// # Errors
    /// Any kind.
    pub async fn list(&self, list: ListTasks) -> Result<Page<StoredTask>, Error> {
        let request = v1::ListTasksRequest {
            queue: list.queue.clone(),
            state: list.state.map_or(v1::TaskState::Unspecified, TaskState::to_pb) as i32,
            from: list.from.map(timestamp),
            to: list.to.map(timestamp),
            page_size: list.page_size,
            page_token: list.page_token,
            stale: list.stale,
            filter: list.filter,
        };
        let about = if list.stale { About::Nothing } else { About::Queue(&list.queue) };
        let send = |c, r| async move { tasks(c).list_tasks(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        let items = reply.tasks.into_iter().map(StoredTask::from_pb).collect::<Result<_, _>>()?;
        let freshness = reply.freshness.map(Freshness::from_pb).transpose()?;
        Ok(Page { items, next: Some(reply.next_page_token).filter(|token| !token.is_empty()), freshness })
    }

    /// Ends tasks, whatever their state; one result each, in order.
    ///
    /// # Errors
    /// Any kind, for the whole batch.
    pub async fn cancel(&self, ids: &[TaskId]) -> Result<Vec<Result<(), Error>>, Error> {
        self.cancel_if(&ids.iter().map(|id| (*id, None)).collect::<Vec<_>>()).await
    }

    /// Returns one page of the queues, by name. `page_size` 0 means 100; the first page has an empty token.
    ///
    /// # Errors
    /// Any kind.
    pub async fn list_queues(&self, page_size: u32, page_token: &str) -> Result<Page<Queue>, Error> {
        let request = v1::ListQueuesRequest { page_size, page_token: page_token.into(), shards: Vec::new() };
        let send = |c, r| async move { tasks(c).list_queues(r).await };
        let reply = self.call(About::Nothing, Again::Always, request, send).await?;
        let items = reply.queues.into_iter().map(Queue::from_pb).collect::<Result<_, _>>()?;
        let next = Some(reply.next_page_token).filter(|token| !token.is_empty());
        Ok(Page { items, next, freshness: None })
    }

    /// Returns one queue with its counts.
    ///
    /// # Errors
    /// `NotFound` if no task was ever created in it; any other kind.
    pub async fn get_queue(&self, queue: &str) -> Result<Queue, Error> {
        let request = v1::GetQueueRequest { queue: queue.into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { tasks(c).get_queue(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Queue::from_pb(reply.queue.ok_or_else(|| incomplete("queue"))?)
    }

    /// Returns the host, its cluster and its shards.
    ///
    /// # Errors
    /// Any kind.
    pub async fn info(&self) -> Result<Info, Error> {
        let send = |c, r| async move { admin(c).info(r).await };
        self.call(About::Nothing, Again::Always, v1::InfoRequest {}, send).await
    }

    /// Adds the host that waits at peer address `address` to the cluster, under its name `id`. Its replicas come by
    /// themselves afterwards.
    ///
    /// # Errors
    /// `Invalid` if it is a member already; any other kind. After `OutcomeUnknown`, [`Client::info`] tells.
    pub async fn add_peer(&self, id: &str, address: &str) -> Result<(), Error> {
        let request = v1::AddPeerRequest { id: id.into(), address: address.into() };
        let send = |c, r| async move { admin(c).add_peer(r).await };
        self.call(About::Nothing, Again::IfNotDone, request, send).await.map(drop)
    }

    /// Removes a host from the cluster for good.
    ///
    /// # Errors
    /// `NotFound` if there is no such member, `Invalid` if it is the last that holds the data; any other kind. After
    /// `OutcomeUnknown`, [`Client::info`] tells.
    pub async fn remove_peer(&self, id: &str) -> Result<(), Error> {
        let request = v1::RemovePeerRequest { id: id.into() };
        let send = |c, r| async move { admin(c).remove_peer(r).await };
        self.call(About::Nothing, Again::IfNotDone, request, send).await.map(drop)
    }

    /// Returns where the replicas of every shard shall stand, and who leads it.
    ///
    /// # Errors
    /// Any kind.
    pub async fn list_shards(&self) -> Result<Vec<ShardPlacement>, Error> {
        let send = |c, r| async move { admin(c).list_shards(r).await };
        let reply = self.call(About::Nothing, Again::Always, v1::ListShardsRequest {}, send).await?;
        Ok(reply.shards)
    }

    /// Hands the leadership of a shard to the voter on `host`; returns when it has it.
    ///
    /// # Errors
    /// `Invalid` if the host holds no voter of it; `OutcomeUnknown` if it did not take over in time; any other kind.
    pub async fn transfer_leader(&self, shard: u32, host: &str) -> Result<(), Error> {
        let about = About::Shard(ShardId(shard));
        let request = v1::TransferLeaderRequest { shard, host: host.into() };
        let send = |c, r| async move { admin(c).transfer_leader(r).await };
        self.call(about, Again::IfNotDone, request, send).await.map(drop)
    }

    /// Compares the replicas of `shards`, of all if there are none, by the digests of their states.
    ///
    /// # Errors
    /// Any kind. Replicas that differ are no error but a verdict.
    pub async fn verify_shards(&self, shards: &[u32]) -> Result<Vec<ShardVerdict>, Error> {
        let request = v1::VerifyShardsRequest { shards: shards.to_vec() };
        let send = |c, r| async move { admin(c).verify_shards(r).await };
        Ok(self.call(About::Nothing, Again::Always, request, send).await?.shards)
    }

    /// Asks the host whether it is there.
    ///
    /// # Errors
    /// Any kind.
    pub async fn ping(&self) -> Result<Ping, Error> {
        let start = Instant::now();
        let reply =
            self.call(About::Nothing, Again::Always, v1::PingRequest {}, |c, r| async move {
                admin(c).ping(r).await
            })
            .await?;
        let time = reply.time.map_or(Ok(Millis(0)), |time| convert::millis(time, "time"))?;
        Ok(Ping { server_id: reply.server_id, time, round_trip: start.elapsed(), warnings: reply.warnings })
    }

    /// Returns what the host knows about itself, as JSON text.
    ///
    /// # Errors
    /// Any kind.
    pub async fn diagnostic(&self) -> Result<String, Error> {
        let request = v1::DiagnosticRequest {};
        let send = |c, r| async move { admin(c).diagnostic(r).await };
        Ok(self.call(About::Nothing, Again::Always, request, send).await?.json)
    }

    /// Asks `grpc.health.v1` about `service`; empty means the host as a whole.
    ///
    /// # Errors
    /// Any kind but `NotFound`, which is [`Health::Unknown`].
    pub async fn health(&self, service: &str) -> Result<Health, Error> {
        let request = HealthCheckRequest { service: service.into() };
        let send = |c, r| async move { HealthClient::new(c).check(r).await };
        match self.call(About::Nothing, Again::Always, request, send).await {
            Ok(reply) => Ok(match reply.status() {
                ServingStatus::Serving => Health::Serving,
                ServingStatus::NotServing => Health::NotServing,
                ServingStatus::Unknown | ServingStatus::ServiceUnknown => Health::Unknown,
            }),
            Err(error) if error.kind() == Kind::NotFound => Ok(Health::Unknown),
            Err(error) => Err(error),
        }
    }
}
