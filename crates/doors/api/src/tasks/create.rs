//! Create one task, or a batch of which a bad one fails alone.

use z4_proto::convert::{Create, create_batch, create_one};
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::NewTask;

use crate::deadline::Deadline;
use crate::door::Door;
use crate::messages::id_text;
use crate::status;

/// What became of a batch: an id for each task, empty where it failed, and the failures.
pub(super) struct Created {
    pub(super) ids: Vec<String>,
    pub(super) errors: Vec<v1::ItemError>,
}

pub(super) async fn one(
    door: &Door,
    request: v1::CreateTaskRequest,
    deadline: Deadline,
) -> Result<v1::CreateTaskResponse, Failure> {
    let (queue, task) = create_one(request)?;
    let creating = door.handle().create(queue, None, &[task]);
    let mut results = deadline.write(creating).await?;
    match results.pop() {
        Some(Ok(id)) => Ok(v1::CreateTaskResponse { id: id_text(id), forwarded_to: String::new() }),
        Some(Err(why)) => Err(status::refusal(&why)),
        None => Err(status::defect("a create of one task was answered with none")),
    }
}

pub(super) async fn batch(
    door: &Door,
    request: v1::BatchCreateTasksRequest,
    deadline: Deadline,
) -> Result<v1::BatchCreateTasksResponse, Failure> {
    let create = create_batch(&request.queue, request.tasks, &request.request_id)?;
    let Created { ids, errors } = all(door, create, deadline).await?;
    Ok(v1::BatchCreateTasksResponse { ids, errors, forwarded_to: String::new() })
}

/// Creates the good tasks of a batch. Everything up to the write being queued happens in the first poll.
pub(super) async fn all(door: &Door, create: Create, deadline: Deadline) -> Result<Created, Failure> {
    let Create { queue, request, tasks } = create;
    let count = tasks.len();
    let (good, bad) = part(tasks);
    let results = if good.is_empty() {
        Vec::new()
    } else {
        let creating = door.handle().create(queue, request, &good);
        // Encoded by now: the decoded tasks need not wait for the disk.
        drop(good);
        deadline.write(creating).await?
    };
    let mut created = Created { ids: Vec::with_capacity(count), errors: Vec::new() };
    let mut bad = bad.into_iter().peekable();
    let mut results = results.into_iter();
    for index in 0..count {
        let failure = match bad.next_if(|(at, _)| *at == index) {
            Some((_, failure)) => failure,
            None => match results.next() {
                Some(Ok(id)) => {
                    created.ids.push(id_text(id));
                    continue;
                }
                Some(Err(why)) => status::refusal(&why),
                None => status::defect("a batch was answered with too few results"),
            },
        };
        created.ids.push(String::new());
        created.errors.push(failure.to_item(index));
    }
    Ok(created)
}

/// Parts the good tasks from the bad ones, which keep their position.
fn part(tasks: Vec<Result<NewTask, Failure>>) -> (Vec<NewTask>, Vec<(usize, Failure)>) {
    let mut good = Vec::with_capacity(tasks.len());
    let mut bad = Vec::new();
    for (index, task) in tasks.into_iter().enumerate() {
        match task {
            Ok(task) => good.push(task),
            Err(failure) => bad.push((index, failure)),
        }
    }
    (good, bad)
}
