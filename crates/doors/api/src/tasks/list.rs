//! List the tasks of a queue by due time, a page at a time.
//!
//! Scheduled and due are one state to the machine, told apart by the shard's clock: a list of one of them, or by a filter,
//! reads that clock first and bounds the time by it.
//!
//! # Not here
//! - What a page token means: `z4-tasks`. Here it is hexadecimal text. That of a stale list: `stale.rs`.

use z4_host::ListRequest;
use z4_proto::convert::{millis, queue_name};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::{End, ListFilter, PageToken, Phase};
use z4_types::limits::LIST_PAGE_MAX;
use z4_types::{Duration, Millis, QueueName};

use super::stale;
use crate::call::Call;
use crate::filters::{self, Wanted};
use crate::messages;

/// Items of a page when the caller does not say.
const PAGE_DEFAULT: u32 = 100;

pub(super) async fn list(
    call: Call<'_>,
    request: v1::ListTasksRequest,
) -> Result<v1::ListTasksResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    if request.stale {
        return call.serve_stale(shard, request, |request| stale::list(call, queue.clone(), request)).await;
    }
    call.serve(shard, request, |request| here(call, queue, request)).await
}

async fn here(
    call: Call<'_>,
    queue: QueueName,
    request: v1::ListTasksRequest,
) -> Result<v1::ListTasksResponse, Failure> {
    let wish = Wish::of(&request)?;
    let after = page_token(&request.page_token)?;
    let limit = wish.limit;
    let (mut wanted, mut split_at) = (Wanted { filter: wish.filter, test: None }, None);
    if wish.filter.state == Some(Phase::Waiting) || !request.filter.is_empty() {
        let (now, _) = call.read(call.handle().queue(queue.clone())).await?;
        let Some(found) = filters::wanted(&request.filter, wish.filter_at(now), now)? else {
            return Ok(v1::ListTasksResponse::default());
        };
        (wanted, split_at) = (found, Some(now));
    }
    let Wanted { filter, test } = wanted;
    let (now, page) =
        call.read(call.handle().list(ListRequest { queue, filter, after, limit, test })).await?;
    // What was asked for as scheduled is shown as scheduled, also if its time came between the two reads.
    let now = split_at.unwrap_or(now);
    Ok(v1::ListTasksResponse {
        tasks: page.tasks.into_iter().map(|task| messages::task(task, now)).collect(),
        next_page_token: page.next.map(|token| hex(&token.to_bytes())).unwrap_or_default(),
        freshness: None,
        forwarded_to: String::new(),
    })
}

/// Which tasks of a queue are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    state: v1::TaskState,
    /// Without the bound between scheduled and due.
    pub(super) filter: ListFilter,
    pub(super) limit: u32,
}

impl Wish {
    /// Reads what a request says besides its queue and page.
    ///
    /// # Errors
    /// If a field cannot be.
    pub(super) fn of(request: &v1::ListTasksRequest) -> Result<Self, Failure> {
        let from = request.from.map(|time| millis(time, "from")).transpose()?;
        let to = request.to.map(|time| millis(time, "to")).transpose()?;
        let state = v1::TaskState::try_from(request.state).map_err(|_| {
            let what = format_args!("{} is no TaskState; give 0 to 7", request.state);
            Failure::invalid("state", reason::FIELD_INVALID, what)
        })?;
        let filter = ListFilter { state: phase(state), from, to };
        filters::check(&request.filter)?;
        Ok(Self { state, filter, limit: page_size(request.page_size) })
    }

    /// Returns the filter by which scheduled and due tasks are told apart at `now`.
    pub(super) fn filter_at(self, now: Millis) -> ListFilter {
        let (mut filter, next) = (self.filter, now + Duration(1));
        match self.state {
            v1::TaskState::Due => filter.to = Some(filter.to.map_or(next, |to| to.min(next))),
            v1::TaskState::Scheduled => filter.from = Some(filter.from.map_or(next, |from| from.max(next))),
            _ => {}
        }
        filter
    }
}

fn phase(state: v1::TaskState) -> Option<Phase> {
    match state {
        v1::TaskState::Unspecified => None,
        v1::TaskState::Scheduled | v1::TaskState::Due => Some(Phase::Waiting),
        v1::TaskState::Leased => Some(Phase::Leased),
        v1::TaskState::Dead => Some(Phase::Dead),
        v1::TaskState::Blocked => Some(Phase::Blocked),
        v1::TaskState::Done => Some(Phase::Finished(Some(End::Done))),
        v1::TaskState::Cancelled => Some(Phase::Finished(Some(End::Cancelled))),
        v1::TaskState::Expired => Some(Phase::Finished(Some(End::Expired))),
    }
}

/// Returns the filter of tasks that are due at `now`.
pub(super) fn due_at(now: Millis) -> ListFilter {
    ListFilter { state: Some(Phase::Waiting), from: None, to: Some(now + Duration(1)) }
}

/// Returns how many items a page has: more than the limit is as many as the limit (AIP-158).
pub(crate) fn page_size(asked: u32) -> u32 {
    if asked == 0 { PAGE_DEFAULT } else { asked.min(LIST_PAGE_MAX) }
}

/// Returns bytes as text for a token.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// Returns the bytes of a token, None if it is no such text.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Returns the failure of a token that no list returned.
pub(crate) fn bad_token() -> Failure {
    let what = "is not one that a list returned; start again without it";
    Failure::invalid("page_token", reason::PAGE_TOKEN_INVALID, what)
}

fn page_token(text: &str) -> Result<Option<PageToken>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes = unhex(text).ok_or_else(bad_token)?;
    stale::refuse_token(&bytes)?;
    PageToken::from_bytes(&bytes).map(Some).map_err(|_| bad_token())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_other_text_is_refused() {
        assert_eq!(unhex(&hex(&[0, 15, 16, 255])), Some(vec![0, 15, 16, 255]));
        for wrong in ["0", "0g", "é", "ffff"] {
            assert!(page_token(wrong).is_err());
        }
    }
}
