//! Give dead tasks all their attempts again: by id, or all of a queue that pass a filter; perhaps one after the other.

use z4_proto::convert::{duration, pb_duration, queue_name, targets};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::Target;
use z4_types::limits::BATCH_TASKS_MAX;
use z4_types::{Duration, TaskId};

use super::cancel::names;
use super::selection::{Deed, all, either};
use super::split::{Item, Split, check_count, each, failures};
use crate::call::Call;

/// Fastest and slowest spread, tasks a second.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

/// One task to redrive, the etag it must have, and how much later it is due.
pub(super) struct Redrive(TaskId, Option<u64>, Duration);

/// How redriven tasks are spread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    /// Tasks a second; None: all at once.
    per_second: Option<f64>,
}

impl Spread {
    /// Returns how much later than the first one a task is due.
    pub(super) fn delay(self, number: u64) -> Duration {
        // Within the calendar, as every span is.
        self.per_second.map_or(Duration(0), |rate| Duration((number as f64 * 1_000.0 / rate) as u64))
    }
}

pub(super) async fn redrive(
    call: Call<'_>,
    request: v1::RedriveTasksRequest,
) -> Result<v1::RedriveTasksResponse, Failure> {
    let spread = spread(request.rate)?;
    if let Some(selection) = either(&request.ids, request.selection.as_ref())? {
        let queue = queue_name(&selection.queue, "selection.queue")?;
        let shard = call.handle().shard_of(&queue);
        let local = |_| async move {
            let matched = Some(all(call, queue, selection, Deed::Redrive(spread)).await?);
            Ok(v1::RedriveTasksResponse { matched, ..Default::default() })
        };
        return call.serve(shard, request, local).await;
    }
    check_count("ids", request.ids.len(), BATCH_TASKS_MAX)?;
    let delays = delays(&request, spread)?;
    let items = targets(&request.ids, &request.etags)?.zip(delays);
    let items = items.map(|(target, delay)| target.map(|(id, etag)| Redrive(id, etag, delay)));
    let Split { errors, forwarded_to } = each(call, items).await?;
    Ok(v1::RedriveTasksResponse { errors, matched: None, forwarded_to })
}

fn spread(rate: f64) -> Result<Spread, Failure> {
    match rate {
        0.0 => Ok(Spread { per_second: None }),
        rate if RATES.contains(&rate) => Ok(Spread { per_second: Some(rate) }),
        rate => {
            let what = format_args!(
                "{rate} is no rate; give 0.001 to 1,000,000 tasks a second, or 0 for all at once"
            );
            Err(Failure::invalid("rate", reason::FIELD_INVALID, what))
        }
    }
}

/// Returns how much later each task of a request is due.
fn delays(request: &v1::RedriveTasksRequest, spread: Spread) -> Result<Vec<Duration>, Failure> {
    if request.delays.is_empty() {
        return Ok((0..request.ids.len() as u64).map(|number| spread.delay(number)).collect());
    }
    if request.delays.len() != request.ids.len() || request.rate != 0.0 {
        let what = "go without a rate, one for each id; give either";
        return Err(Failure::invalid("delays", reason::FIELD_INVALID, what));
    }
    request.delays.iter().map(|span| duration(*span, "delays")).collect()
}

impl Item for Redrive {
    type Request = v1::RedriveTasksRequest;

    fn task(&self) -> TaskId {
        self.0
    }

    fn request(items: Vec<Self>) -> Self::Request {
        let (ids, etags) = names(items.iter().map(|Self(id, etag, _)| (*id, *etag)));
        let delays = items.iter().map(|Self(.., delay)| pb_duration(*delay)).collect();
        v1::RedriveTasksRequest { ids, etags, delays, rate: 0.0, selection: None }
    }

    fn items(request: Self::Request) -> Result<Vec<Self>, Failure> {
        let delays = delays(&request, Spread { per_second: None })?;
        let targets = targets(&request.ids, &request.etags)?.zip(delays);
        targets.map(|(target, delay)| target.map(|(id, etag)| Self(id, etag, delay))).collect()
    }

    async fn here(call: Call<'_>, items: Vec<Self>) -> Result<Vec<v1::ItemError>, Failure> {
        let tasks = items.into_iter().map(|Self(id, etag, delay)| (Target::id(id, etag), delay)).collect();
        Ok(failures(call.write(call.handle().redrive(tasks)).await?))
    }

    fn split(reply: v1::RedriveTasksResponse) -> Split {
        Split { errors: reply.errors, forwarded_to: reply.forwarded_to }
    }

    fn reply(errors: Vec<v1::ItemError>) -> v1::RedriveTasksResponse {
        v1::RedriveTasksResponse { errors, ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_spreads_and_an_impossible_one_is_refused() {
        let delays = |rate: f64| [0, 1, 10].map(|number| spread(rate).expect("fine").delay(number).0);
        assert_eq!(delays(0.0), [0, 0, 0]);
        assert_eq!(delays(10.0), [0, 100, 1_000]);
        assert_eq!(delays(0.001), [0, 1_000_000, 10_000_000]);
        for wrong in [-1.0, f64::NAN, f64::INFINITY, 1e-9, 1e9] {
            assert_eq!(spread(wrong).expect_err("no rate").field.as_deref(), Some("rate"));
        }
    }
}
