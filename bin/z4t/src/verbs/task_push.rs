//! `task push QUEUE PAYLOAD`: creates tasks and prints their ids. One is a call, many are a stream of batches.

use std::io::Read as _;
use std::time::Duration;

use serde_json::json;
use z4_client::{Client, Created, Error, NewTask, TaskId};
use z4_types::limits::PAYLOAD_BYTES_MAX;

use crate::args::Push;
use crate::failure::{Failure, code_of};
use crate::output;
use crate::time::Time;

/// Tasks handed to the producer at a time with --repeat: several full frames, so that its window stays filled.
const CHUNK: u64 = 8_000;

pub(super) async fn run(client: &Client, timeout: Duration, push: Push, json: bool) -> Result<(), Failure> {
    let task = new_task(&push)?;
    if push.repeat == 1 {
        let made = client.make(&push.into, task).await?;
        if made.existed && !json {
            output::talk(format_args!("a task with this key was there already"));
        }
        return print_made(made, json);
    }
    let producer = client.producer(push.into).timeout(timeout).build()?;
    let mut left = push.repeat;
    let (mut failed, mut worst) = (0_u64, None::<Error>);
    while left > 0 {
        let chunk = left.min(CHUNK);
        left -= chunk;
        let batch = (0..chunk).map(|_| task.clone()).collect();
        for answer in producer.push_batch(batch).await {
            match answer {
                Ok(id) => print(id, json)?,
                Err(error) => {
                    failed += 1;
                    worst = worst.filter(|known| code_of(known) >= code_of(&error)).or(Some(error));
                }
            }
        }
        if let Some(error) = worst.take() {
            // The rest would fail the same way; what was created is printed.
            output::talk(format_args!(
                "error: {failed} of these {chunk} failed, {left} more were not tried: {error}"
            ));
            return Err(Failure::Partly(code_of(&error)));
        }
    }
    Ok(())
}

fn print_made(made: Created, json: bool) -> Result<(), Failure> {
    if json && made.existed {
        return output::json(&json!({ "id": made.id.to_string(), "existed": true }));
    }
    print(made.id, json)
}

fn print(id: TaskId, json: bool) -> Result<(), Failure> {
    if json { output::json(&json!({ "id": id.to_string() })) } else { output::line(id) }
}

fn new_task(push: &Push) -> Result<NewTask, Failure> {
    let mut task = NewTask::new(payload(&push.payload)?);
    match push.deliver_at {
        Some(Time::At(time)) => task = task.deliver_at(time),
        // By the server's clock, which is the one that counts.
        Some(Time::In(span)) => task = task.delay(span),
        None => {}
    }
    if let Some(delay) = push.delay {
        task = task.delay(delay);
    }
    if let Some(priority) = push.priority {
        task = task.priority(priority);
    }
    if let Some(attempts) = push.max_attempts {
        task = task.max_attempts(attempts);
    }
    if let Some(ttl) = push.ttl {
        task = task.ttl(ttl);
    }
    if let Some(key) = &push.key {
        task = task.key(key, push.key_policy.into());
    }
    if let Some(window) = push.key_window {
        task = task.key_window(window);
    }
    if !push.after.is_empty() {
        task = task.after(push.after.iter().copied()).on_failure(push.on_failure.into());
    }
    if let Some(group) = &push.group {
        task = task.group(group);
    }
    if let Some(id) = &push.request_id {
        task = task.request_id(id);
    }
    Ok(push.meta.iter().fold(task, |task, (key, value)| task.metadata(key, value)))
}

/// Reads the payload: a text, `@FILE`, or `-` for stdin.
pub(super) fn payload(text: &str) -> Result<Vec<u8>, Failure> {
    let (name, bytes) = match text.strip_prefix('@') {
        _ if text == "-" => ("stdin", bounded(std::io::stdin().lock())),
        Some(path) => (path, std::fs::File::open(path).and_then(bounded)),
        None => return Ok(text.as_bytes().to_vec()),
    };
    let bytes = bytes.map_err(|error| Failure::Failed(format!("cannot read {name}: {error}")))?;
    if bytes.len() > PAYLOAD_BYTES_MAX {
        let what = format!("{name} has more than the {PAYLOAD_BYTES_MAX} bytes a payload may have");
        return Err(Failure::Usage(what));
    }
    Ok(bytes)
}

/// Reads one byte more than is allowed and no further: the input may be endless.
fn bounded(input: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(PAYLOAD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
