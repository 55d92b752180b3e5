//! Settle leases: each on its own, the failures by position.

use z4_proto::convert::settlement;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::outcome::Refusal;
use z4_types::limits::SETTLE_BATCH_MAX;

use crate::deadline::Deadline;
use crate::door::Door;
use crate::status;

pub(super) async fn settle(
    door: &Door,
    request: v1::SettleRequest,
    deadline: Deadline,
) -> Result<v1::SettleResponse, Failure> {
    let errors = all(door, request.settlements, deadline).await?;
    Ok(v1::SettleResponse { errors, forwarded_to: String::new() })
}

/// Settles the well-formed ones of a batch; returns those that failed, by position.
///
/// # Errors
/// If the whole batch failed.
pub(super) async fn all(
    door: &Door,
    words: Vec<v1::Settlement>,
    deadline: Deadline,
) -> Result<Vec<v1::ItemError>, Failure> {
    check_count("settlements", words.len(), SETTLE_BATCH_MAX)?;
    let converted = words.into_iter().map(settlement);
    each(converted, |good| deadline.write(door.handle().settle(good))).await
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

/// Calls with the good items; returns the failures of both kinds by position.
pub(super) async fn each<I, T, Answer>(
    items: impl ExactSizeIterator<Item = Result<I, Failure>>,
    call: impl FnOnce(Vec<I>) -> Answer,
) -> Result<Vec<v1::ItemError>, Failure>
where
    Answer: Future<Output = Result<Vec<Result<T, Refusal>>, Failure>>,
{
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
    if !good.is_empty() {
        let results = call(good).await?;
        for (index, result) in positions.into_iter().zip(results) {
            if let Err(why) = result {
                errors.push(status::refusal(&why).to_item(index));
            }
        }
        errors.sort_by_key(|error| error.index);
    }
    Ok(errors)
}
