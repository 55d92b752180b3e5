//! What every call of this door shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use z4_host::Handle;
use z4_types::Millis;

use crate::bodies::Bodies;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Door {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    bodies: Bodies,
    stopping: watch::Receiver<bool>,
    started: Instant,
    next_consumer: AtomicU64,
}

impl Door {
    pub(crate) fn new(handle: Handle, stopping: watch::Receiver<bool>, bodies: Bodies) -> Self {
        let started = Instant::now();
        let shared = Shared { handle, bodies, stopping, started, next_consumer: AtomicU64::new(1) };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    /// Returns what requests hold before they are understood, and how many calls are under way.
    pub(crate) fn bodies(&self) -> &Bodies {
        &self.shared.bodies
    }

    /// Returns whether streams are to end and long polls to return.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.shared.stopping.borrow() || self.handle().is_stopping()
    }

    /// Waits until the server is told to stop.
    pub(crate) async fn stopping(&self) {
        let mut stopping = self.shared.stopping.clone();
        // Who holds the other end decides; if it is gone nobody will say stop.
        if stopping.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns how long the door has been open.
    pub(crate) fn uptime(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Returns the wall clock.
    pub(crate) fn wall(&self) -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Returns the name of a consumer: its own, or one that says where it is connected.
    pub(crate) fn consumer_name(&self, given: String) -> String {
        if !given.is_empty() {
            return given;
        }
        let number = self.shared.next_consumer.fetch_add(1, Relaxed);
        format!("{}#{number}", self.handle().identity().host)
    }
}
