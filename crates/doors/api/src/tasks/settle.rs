//! Settle leases: each on its own, the failures by position.

use z4_proto::convert::{pb_settlement, settlement};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::Settlement;
use z4_types::TaskId;
use z4_types::limits::{BATCH_BYTES_MAX, SETTLE_BATCH_MAX};

use super::split::{Item, Split, check_count, each, failures};
use crate::call::Call;

/// Settles the well-formed ones of a batch; answers with those that failed, by position.
///
/// # Errors
/// If the whole batch failed.
pub(super) async fn settle(
    call: Call<'_>,
    request: v1::SettleRequest,
) -> Result<v1::SettleResponse, Failure> {
    check_count("settlements", request.settlements.len(), SETTLE_BATCH_MAX)?;
    check_results(&request.settlements)?;
    let Split { errors, forwarded_to } = each(call, request.settlements.into_iter().map(settlement)).await?;
    Ok(v1::SettleResponse { errors, forwarded_to })
}

/// Refuses a batch whose results together are more than one entry of the log shall hold.
fn check_results(words: &[v1::Settlement]) -> Result<(), Failure> {
    let result = |word: &v1::Settlement| match &word.verdict {
        Some(v1::settlement::Verdict::Ack(ack)) => ack.result.len(),
        _ => 0,
    };
    let bytes = words.iter().map(result).sum::<usize>();
    if bytes > BATCH_BYTES_MAX {
        let what =
            format_args!("have {bytes} bytes of results; settle at most {BATCH_BYTES_MAX} in one batch");
        return Err(Failure::invalid("settlements", reason::BATCH_TOO_LARGE, what));
    }
    Ok(())
}

impl Item for Settlement {
    type Request = v1::SettleRequest;

    fn task(&self) -> TaskId {
        self.id
    }

    fn request(items: Vec<Self>) -> Self::Request {
        v1::SettleRequest { settlements: items.into_iter().map(pb_settlement).collect() }
    }

    fn items(request: Self::Request) -> Result<Vec<Self>, Failure> {
        request.settlements.into_iter().map(settlement).collect()
    }

    async fn here(call: Call<'_>, items: Vec<Self>) -> Result<Vec<v1::ItemError>, Failure> {
        Ok(failures(call.write(call.handle().settle(items)).await?))
    }

    fn split(reply: v1::SettleResponse) -> Split {
        Split { errors: reply.errors, forwarded_to: reply.forwarded_to }
    }

    fn reply(errors: Vec<v1::ItemError>) -> v1::SettleResponse {
        v1::SettleResponse { errors, forwarded_to: String::new() }
    }
}
