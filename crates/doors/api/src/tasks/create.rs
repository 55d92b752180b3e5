//! Create one task, or a batch of which a bad one fails alone.

use z4_proto::convert::{Create, create_batch, create_one, queue_name};
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::NewTask;
use z4_types::QueueName;

use crate::bodies::Share;
use crate::call::Call;
use crate::messages::id_text;
use crate::status;

pub(super) async fn one(
    call: Call<'_>,
    request: v1::CreateTaskRequest,
) -> Result<v1::CreateTaskResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    let local = |request| async move {
        let task = create_one(&queue, request)?;
        let creating = call.handle().create(queue, None, &[task]);
        let mut results = call.write(creating).await?;
        match results.pop() {
            Some(Ok(made)) => Ok(v1::CreateTaskResponse {
                id: id_text(made.id),
                existed: made.existed,
                forwarded_to: String::new(),
            }),
            Some(Err(why)) => Err(status::refusal(&why)),
            None => Err(status::defect("a create of one task was answered with none")),
        }
    };
    call.serve(shard, request, local).await
}

pub(super) async fn batch(
    call: Call<'_>,
    request: v1::BatchCreateTasksRequest,
) -> Result<v1::BatchCreateTasksResponse, Failure> {
    // A unary request's share is held until it is answered.
    all(call, request, None).await
}

/// Creates the good tasks of a batch. If the shard is led here, everything up to the write being queued happens in the
/// first poll, and the share is given back then. If not, it is held until the other host has answered.
pub(super) async fn all(
    call: Call<'_>,
    request: v1::BatchCreateTasksRequest,
    share: Option<Share>,
) -> Result<v1::BatchCreateTasksResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    call.serve(shard, request, |request| here(call, queue, request, share)).await
}

/// Creates the good tasks of a batch on this host.
async fn here(
    call: Call<'_>,
    queue: QueueName,
    request: v1::BatchCreateTasksRequest,
    share: Option<Share>,
) -> Result<v1::BatchCreateTasksResponse, Failure> {
    let Create { queue, request, tasks } = create_batch(queue, request.tasks, &request.request_id)?;
    let count = tasks.len();
    let (good, bad) = part(tasks);
    let results = if good.is_empty() {
        Vec::new()
    } else {
        let creating = call.handle().create(queue, request, &good);
        // Encoded by now, under the host's budget: the decoded tasks need not wait for the disk.
        drop((good, share));
        call.write(creating).await?
    };
    let mut created = v1::BatchCreateTasksResponse { ids: Vec::with_capacity(count), ..Default::default() };
    let mut bad = bad.into_iter().peekable();
    let mut results = results.into_iter();
    for index in 0..count {
        let failure = match bad.next_if(|(at, _)| *at == index) {
            Some((_, failure)) => failure,
            None => match results.next() {
                Some(Ok(made)) => {
                    if made.existed {
                        created.existed.push(index as u32);
                    }
                    created.ids.push(id_text(made.id));
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
