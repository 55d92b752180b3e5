//! The fast path of creation: a stream of batches, many of them under way.
//!
//! One task reads the stream, converts and encodes a batch and queues it at the shard, then reads on; a task for each
//! batch under way waits for its answer. When the window is full the stream is not read, HTTP/2 stops the client.
//!
//! # Invariants
//! - Batches are queued at the shard in the order of the stream, if it is led here.
//! - Each batch read is answered once, within ten seconds; a place in the window is free again when its answer is queued.
//! - A stream that the server ends says why, behind the answers of all batches read: the rest was never proposed.
//!
//! # Not here
//! - Batches for a shard led elsewhere: each goes to its leader as a call of its own (`forward.rs`).
//! # Caveats
//! - A client that does not read its replies is not read from either.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use z4_proto::v1;

use super::create::all;
use crate::bodies::Share;
use crate::call::Call;
use crate::door::Door;
use crate::meter::Broken;
use crate::requests::Requests;
use crate::status;

/// Batches of one stream under way.
const WINDOW_BATCHES: u32 = 32;
/// Bytes of one stream under way. A larger batch goes alone.
const WINDOW_BYTES: u32 = 16 << 20;
/// Counted for each task besides its payload.
const TASK_OVERHEAD: usize = 64;

type Reply = Result<v1::PushReply, Status>;

/// Serves one stream, in a task of its own.
pub(super) fn push(door: &Door, batches: Requests<v1::PushRequest>) -> ReceiverStream<Reply> {
    let (replies, receiver) = mpsc::channel(WINDOW_BATCHES as usize);
    let door = door.clone();
    tokio::spawn(async move { read(&door, batches, &replies).await });
    ReceiverStream::new(receiver)
}

async fn read(door: &Door, mut batches: Requests<v1::PushRequest>, replies: &mpsc::Sender<Reply>) {
    let slots = Arc::new(Semaphore::new(WINDOW_BATCHES as usize));
    let bytes = Arc::new(Semaphore::new(WINDOW_BYTES as usize));
    let mut stopping = pin!(door.stopping());
    loop {
        let message = tokio::select! {
            message = batches.next() => message,
            () = replies.closed() => return,
            () = &mut stopping => Err(Broken::Refused(status::draining())),
        };
        let (batch, share) = match message {
            Ok(Some(batch)) => batch,
            Err(Broken::Refused(failure)) => {
                // Everything read is answered first: what has no answer then was never proposed.
                drop(slots.acquire_many(WINDOW_BATCHES).await);
                drop(replies.send(Err(failure.into())).await);
                return;
            }
            // The answers under way have their own hold on `replies`.
            Ok(None) | Err(Broken::Gone(_)) => return,
        };
        let places = tokio::select! {
            places = places(&slots, &bytes, &batch) => places,
            () = replies.closed() => return,
        };
        begin(door.clone(), batch, share, replies.clone(), places).await;
    }
}

type Places = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

async fn places(slots: &Arc<Semaphore>, bytes: &Arc<Semaphore>, batch: &v1::PushRequest) -> Places {
    let size: usize = batch.tasks.iter().map(|task| task.payload.len() + TASK_OVERHEAD).sum();
    let size = u32::try_from(size).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
    // The semaphores are never closed, so both are there.
    (Arc::clone(slots).acquire_owned().await.ok(), Arc::clone(bytes).acquire_many_owned(size).await.ok())
}

/// Queues the batch at its shard, and leaves the rest to a task of its own.
async fn begin(
    door: Door,
    batch: v1::PushRequest,
    share: Option<Share>,
    replies: mpsc::Sender<Reply>,
    places: Places,
) {
    let mut answer = Box::pin(async move {
        let reply = create(&door, batch, share).await;
        // A client that is gone needs no answer.
        drop(replies.send(Ok(reply)).await);
        drop(places);
    });
    // The first poll does all the work there is before the shard answers. Done here and not in the spawned task, it
    // keeps the order of the stream.
    let done = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx).is_ready())).await;
    if !done {
        tokio::spawn(answer);
    }
}

async fn create(door: &Door, batch: v1::PushRequest, share: Option<Share>) -> v1::PushReply {
    let v1::PushRequest { seq, queue, tasks, request_id } = batch;
    let request = v1::BatchCreateTasksRequest { queue, tasks, request_id };
    match all(Call::of_stream(door, false), request, share).await {
        Ok(v1::BatchCreateTasksResponse { ids, errors, existed, forwarded_to }) => {
            v1::PushReply { seq, ids, errors, existed, failure: None, forwarded_to }
        }
        Err(failure) => v1::PushReply { seq, failure: Some(failure.to_pb()), ..v1::PushReply::default() },
    }
}
