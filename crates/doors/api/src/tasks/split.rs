//! Batches of which each item names its own task: settlements, cancels, redrives, split by who leads the tasks' shards.
//!
//! A bad item fails alone. The good ones of shards led here are one call on the host, which is nearly always all there
//! is; those of other shards go to their leaders, shard by shard, side by side.
//!
//! # Invariants
//! - Failures name the position of their item in the caller's batch.
//! - A batch of which a part may have been done is never refused as if nothing was: the caller would count a second
//!   answer for the first.

use std::future::Future;

use tokio::task::JoinSet;
use z4_host::Route;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::outcome::Refusal;
use z4_types::{Kind, ShardId, TaskId};

use crate::call::Call;
use crate::forward::Pass;
use crate::status;

/// The answer to a batch, or to a part of one.
#[derive(Debug, Default)]
pub(super) struct Split {
    /// The failures, by position.
    pub(super) errors: Vec<v1::ItemError>,
    /// Who has answered, if it was one other host alone.
    pub(super) forwarded_to: String,
}

/// What is asked of one task.
pub(super) trait Item: Sized + Send + 'static {
    /// The call that asks it of many.
    type Request: Pass;

    /// Returns the task.
    fn task(&self) -> TaskId;

    /// Returns the call for these.
    fn request(items: Vec<Self>) -> Self::Request;

    /// Returns what a call asks that [`Item::request`] made.
    fn items(request: Self::Request) -> Result<Vec<Self>, Failure>;

    /// Does it on this host; returns what failed, by position.
    fn here(
        call: Call<'_>,
        items: Vec<Self>,
    ) -> impl Future<Output = Result<Vec<v1::ItemError>, Failure>> + Send;

    /// Returns what a reply says.
    fn split(reply: <Self::Request as Pass>::Reply) -> Split;

    /// Returns the reply that says so.
    fn reply(errors: Vec<v1::ItemError>) -> <Self::Request as Pass>::Reply;
}

/// Refuses an empty batch and one over `limit`.
pub(super) fn check_count(field: &str, count: usize, limit: usize) -> Result<(), Failure> {
    if count == 0 {
        return Err(Failure::invalid(field, reason::BATCH_EMPTY, "holds nothing; give at least one"));
    }
    if count > limit {
        let what = format_args!("holds {count}; split it into batches of at most {limit}");
        return Err(Failure::invalid(field, reason::BATCH_TOO_LARGE, what));
    }
    Ok(())
}

/// Returns the refused ones of an answer of the host.
pub(super) fn failures<T>(results: Vec<Result<T, Refusal>>) -> Vec<v1::ItemError> {
    let failed = |(index, result): (usize, Result<T, Refusal>)| {
        result.err().map(|why| status::refusal(&why).to_item(index))
    };
    results.into_iter().enumerate().filter_map(failed).collect()
}

/// Does what the good items ask, wherever their shards are led; returns the failures of both kinds by position.
///
/// # Errors
/// If the whole batch failed, or a part of it with nothing known of its items.
pub(super) async fn each<I: Item>(
    call: Call<'_>,
    items: impl ExactSizeIterator<Item = Result<I, Failure>>,
) -> Result<Split, Failure> {
    let mut good = Vec::with_capacity(items.len());
    let mut positions = Vec::with_capacity(items.len());
    let mut errors = Vec::new();
    for (index, item) in items.enumerate() {
        match item {
            Ok(item) => {
                good.push(item);
                positions.push(index);
            }
            Err(failure) => errors.push(failure.to_item(index)),
        }
    }
    if good.is_empty() {
        return Ok(Split { errors, forwarded_to: String::new() });
    }
    let elsewhere = elsewhere(call, &good);
    let answer = if elsewhere.is_empty() {
        Split { errors: I::here(call, good).await?, forwarded_to: String::new() }
    } else {
        everywhere(call, good, &elsewhere).await?
    };
    errors.extend(answer.errors.into_iter().map(|error| moved(error, &positions)));
    errors.sort_by_key(|error| error.index);
    Ok(Split { errors, forwarded_to: answer.forwarded_to })
}

/// Returns the shards of these that are not led here. Unknown ones are this host's to refuse.
fn elsewhere<I: Item>(call: Call<'_>, items: &[I]) -> Vec<ShardId> {
    let mut seen: Vec<(ShardId, bool)> = Vec::new();
    for item in items {
        let shard = item.task().shard();
        if seen.iter().all(|(known, _)| *known != shard) {
            let known = call.handle().task_shard(item.task()).is_ok();
            seen.push((shard, known && call.door.route(shard) != Route::Here));
        }
    }
    seen.into_iter().filter_map(|(shard, elsewhere)| elsewhere.then_some(shard)).collect()
}

/// A part of a batch, and where its items stood.
type Part<I> = (Vec<usize>, Vec<I>);

/// Asks this host and the leaders of the shards `elsewhere`, side by side.
async fn everywhere<I: Item>(call: Call<'_>, items: Vec<I>, elsewhere: &[ShardId]) -> Result<Split, Failure> {
    let mut here: Part<I> = (Vec::new(), Vec::new());
    let mut there: Vec<Part<I>> = elsewhere.iter().map(|_| (Vec::new(), Vec::new())).collect();
    for (at, item) in items.into_iter().enumerate() {
        let shard = item.task().shard();
        let part = match elsewhere.iter().position(|each| *each == shard) {
            Some(part) => &mut there[part],
            None => &mut here,
        };
        part.0.push(at);
        part.1.push(item);
    }
    let parts = there.len() + usize::from(!here.0.is_empty());
    let mut asked = JoinSet::new();
    for (shard, (positions, items)) in elsewhere.iter().copied().zip(there) {
        let (door, deadline, forwarded) = (call.door.clone(), call.deadline, call.forwarded);
        asked.spawn(async move {
            let call = Call { door: &door, deadline, forwarded };
            (positions, at_leader(call, shard, items).await)
        });
    }
    let mut whole = Split::default();
    let (mut done, mut failed) = (0, None::<Failure>);
    let mut take = |positions: &[usize], answer: Result<Split, Failure>| match answer {
        Ok(answer) => {
            done += 1;
            whole.errors.extend(answer.errors.into_iter().map(|error| moved(error, positions)));
            whole.forwarded_to = answer.forwarded_to;
        }
        Err(failure) => failed = Some(failure),
    };
    if !here.0.is_empty() {
        let errors = I::here(call, here.1).await;
        take(&here.0, errors.map(|errors| Split { errors, forwarded_to: String::new() }));
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((positions, answer)) => take(&positions, answer),
            Err(_) => take(&[], Err(status::defect("a part of a batch was not answered"))),
        }
    }
    if parts > 1 {
        whole.forwarded_to.clear();
    }
    match failed {
        None => Ok(whole),
        Some(failure) if done == 0 && parts == 1 => Err(failure),
        Some(failure) => Err(in_part(failure)),
    }
}

/// Asks the leader of one shard.
async fn at_leader<I: Item>(call: Call<'_>, shard: ShardId, items: Vec<I>) -> Result<Split, Failure> {
    let local = |request| async move {
        // Led here by now. These were converted once, so they are again.
        Ok(I::reply(I::here(call, I::items(request)?).await?))
    };
    call.serve(shard, I::request(items), local).await.map(I::split)
}

/// Returns an error of a part with its position in the whole.
fn moved(mut error: v1::ItemError, positions: &[usize]) -> v1::ItemError {
    let at = positions.get(error.index as usize).copied().unwrap_or_default();
    error.index = u32::try_from(at).unwrap_or(u32::MAX);
    error
}

/// Other parts may have been done, so "nothing was done" would not be true of the whole.
fn in_part(failure: Failure) -> Failure {
    if !matches!(failure.kind, Kind::Unavailable | Kind::Overloaded) {
        return failure;
    }
    let what = format!(
        "a part of the batch was not done, others may have been; a repeat is safe, what was done answers so: {}",
        failure.message
    );
    let wait = failure.retry_after.unwrap_or(status::ELECTION_WAIT);
    Failure::new(Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN, what).with_retry_after(wait)
}
