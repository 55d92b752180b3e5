//! The gRPC server around the services: limits, health, reflection, and its end.
//!
//! When it is told to stop: health says NOT_SERVING, consumers hear Draining, long polls return, no connection is
//! accepted any more, and what is under way is answered. After `DRAIN_MAX` the rest is cut.

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use z4_host::Handle;
use z4_proto::v1::admin_server::{AdminServer, SERVICE_NAME as ADMIN};
use z4_proto::v1::events_server::{EventsServer, SERVICE_NAME as EVENTS};
use z4_proto::v1::queues_server::{QueuesServer, SERVICE_NAME as QUEUES};
use z4_proto::v1::schedules_server::{SERVICE_NAME as SCHEDULES, SchedulesServer};
use z4_proto::v1::tasks_server::{SERVICE_NAME as TASKS, TasksServer};
use z4_proto::{FILE_DESCRIPTOR_SET, MESSAGE_BYTES_MAX};

use crate::admin::AdminService;
use crate::bodies::{Bodies, REQUEST_BYTES_MAX};
use crate::connections::accept;
use crate::deadline::CALL_MAX;
use crate::door::Door;
use crate::events::EventsService;
use crate::meter::{MESSAGE_MAX, Metered};
use crate::queues::QueuesService;
use crate::schedules::SchedulesService;
use crate::tasks::TasksService;

/// What a stream may have on the way to us: half of its connection's, so that one that is not read does not stop the
/// others. At 0.2 ms there and back that is 320 MB/s.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// What a connection may; times `CONNECTIONS_MAX` it is in the sum of `bodies.rs`. Never grown by measuring.
const CONNECTION_WINDOW_BYTES: u32 = 128 << 10;
/// Larger than HTTP/2's own 16 KiB: a batch is then a few frames, not a hundred. No larger than a window.
const HTTP2_FRAME_BYTES: u32 = 64 << 10;
/// One client process: all its consumers. All connections together: `CALLS_MAX`.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// Admin, health and reflection ask short questions.
const QUESTION_BYTES_MAX: usize = 64 << 10;
/// Settings of a queue, and pauses: the longest texts of all fields are less than 100 KiB.
const QUEUE_SETTINGS_BYTES_MAX: usize = 256 << 10;
/// A schedule holds one task, whose payload may be a MiB; the rest is far less than another half.
const SCHEDULE_BYTES_MAX: usize = 3 << 19;
/// A peer that vanished without a word is noticed after the sum of both.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls under way when the server stops have so long; pull streams end by themselves after five seconds.
const DRAIN_MAX: Duration = Duration::from_millis(6_500);
/// How often health looks whether every shard has a leader, and the door whether it knows hosts that are gone.
const HEALTH_EVERY: Duration = Duration::from_millis(500);

/// Serves `handle` on `listener` until `stopping` becomes true and everything under way is answered, or six and a
/// half seconds later. Must be awaited in a tokio runtime with time and IO enabled.
pub async fn serve(handle: Handle, listener: TcpListener, stopping: watch::Receiver<bool>) {
    let routes = Box::new(|handle: &Handle, shard| handle.route(shard));
    serve_at(Door::new(handle, routes, stopping, Bodies::new()), listener).await;
}

/// Serves `door` on `listener`, as [`serve`].
pub(crate) async fn serve_at(door: Door, listener: TcpListener) {
    let bodies = door.bodies().clone();
    let (reporter, health) = tonic_health::server::health_reporter();
    set_health(&reporter, false).await;
    let watching = tokio::spawn(keep_house(reporter, door.clone()));

    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were made by the compiler")
        .max_decoding_message_size(QUESTION_BYTES_MAX);
    let reflection_v1alpha = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1alpha()
        .expect("the descriptors were made by the compiler")
        .max_decoding_message_size(QUESTION_BYTES_MAX);
    let health = health.max_decoding_message_size(QUESTION_BYTES_MAX);
    let tasks = TasksServer::new(TasksService::new(door.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let queues = QueuesServer::new(QueuesService::new(door.clone()))
        .max_decoding_message_size(QUEUE_SETTINGS_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let events = EventsServer::new(EventsService::new(door.clone()))
        .max_decoding_message_size(QUESTION_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let schedules = SchedulesServer::new(SchedulesService::new(door.clone()))
        .max_decoding_message_size(SCHEDULE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin =
        AdminServer::new(AdminService::new(door.clone())).max_decoding_message_size(QUESTION_BYTES_MAX);

    let stop = door.clone();
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_adaptive_window(Some(false))
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        // Also for requests whose bytes never come: their own deadline starts when they are complete.
        .timeout(CALL_MAX + MESSAGE_MAX)
        .add_service(Metered::new(tasks, &bodies))
        .add_service(Metered::new(queues, &bodies))
        .add_service(Metered::new(events, &bodies))
        .add_service(Metered::new(schedules, &bodies))
        .add_service(Metered::new(admin, &bodies))
        .add_service(Metered::new(health, &bodies))
        .add_service(Metered::new(reflection, &bodies))
        .add_service(Metered::new(reflection_v1alpha, &bodies))
        .serve_with_incoming_shutdown(accept(listener), async move { stop.stopping().await });
    finish(served, &door).await;
    watching.abort();
}

/// Waits for the server, but not for ever once it was told to stop.
async fn finish(served: impl Future<Output = Result<(), tonic::transport::Error>>, door: &Door) {
    let give_up = async {
        door.stopping().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        result = served => if let Err(error) = result {
            tracing::error!(%error, "the gRPC server has ended");
        },
        () = give_up => tracing::warn!("some calls did not end in time and are cut"),
    }
}

/// Keeps health up to date, and the channels to other hosts.
async fn keep_house(reporter: HealthReporter, door: Door) {
    let mut was = false;
    loop {
        door.forget_gone();
        let is = !door.is_stopping() && door.handle().is_joined() && has_leaders(door.handle()).await;
        if is != was {
            set_health(&reporter, is).await;
            was = is;
        }
        if door.is_stopping() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(HEALTH_EVERY) => {}
            () = door.stopping() => {}
        }
    }
}

async fn has_leaders(handle: &Handle) -> bool {
    // None: the host waits to be added to a cluster.
    handle
        .groups()
        .await
        .is_ok_and(|groups| !groups.is_empty() && groups.iter().all(|group| group.leader != 0))
}

async fn set_health(reporter: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", TASKS, QUEUES, EVENTS, SCHEDULES, ADMIN] {
        reporter.set_service_status(service, status).await;
    }
}
