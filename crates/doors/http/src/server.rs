//! The routes and their server.
//!
//! `/healthz` says that the process runs and answers; restart it when it does not. `/readyz` says that it serves:
//! the host belongs to a cluster, every shard here has a leader and the host is not stopping; send no traffic while it
//! does not.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use z4_host::{Handle, Snapshot};

use crate::listener::{CONNECTIONS_MAX, Limited, PATIENCE};
use crate::metrics::metrics;

/// The driver answers between two passes; one that does not within this time is in trouble.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Open connections have so long when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(1);
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

#[derive(Clone)]
struct Door {
    handle: Handle,
    stopping: watch::Receiver<bool>,
}

/// Serves `handle` on `listener` until the sender of `stopping` is dropped; from the moment `stopping` is true
/// `/readyz` says no. So whoever routes traffic learns of the end before it comes.
pub async fn serve(handle: Handle, listener: TcpListener, stopping: watch::Receiver<bool>) {
    let mut ended = stopping.clone();
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, "here are /metrics, /healthz and /readyz\n"))
        .with_state(Door { handle, stopping });
    let end = async move { while ended.changed().await.is_ok() {} };
    let (cut, cutting) = tokio::sync::oneshot::channel::<()>();
    let serving = axum::serve(Limited::new(listener, CONNECTIONS_MAX, PATIENCE), router)
        .with_graceful_shutdown(async move {
            end.await;
            drop(cut);
        });
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::error!(%error, "the HTTP server has ended");
        },
        () = async { drop(cutting.await); tokio::time::sleep(DRAIN_MAX).await } => {}
    }
}

async fn show_metrics(State(door): State<Door>) -> Response {
    match look(&door).await {
        Some(snapshot) => ([(CONTENT_TYPE, TEXT)], metrics(&door.handle, &snapshot)).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the host does not answer; see its log\n").into_response(),
    }
}

async fn ready(State(door): State<Door>) -> Response {
    let stopping = *door.stopping.borrow() || door.handle.is_stopping();
    let leaderless: Option<Vec<u32>> = look(&door).await.map(|snapshot| {
        snapshot.groups.iter().filter(|group| group.leader == 0).map(|group| group.shard.0).collect()
    });
    let joined = door.handle.is_joined();
    let ready = !stopping && joined && leaderless.as_ref().is_some_and(Vec::is_empty);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let answers = leaderless.is_some();
    let shards = leaderless.unwrap_or_default();
    let body = format!(
        "{{\"ready\":{ready},\"stopping\":{stopping},\"joined\":{joined},\"answers\":{answers},\"shards_without_leader\":{shards:?}}}\n"
    );
    (code, [(CONTENT_TYPE, JSON)], body).into_response()
}

async fn look(door: &Door) -> Option<Snapshot> {
    timeout(LOOK_MAX, door.handle.snapshot()).await.ok()?.ok()
}
