//! Get and list as a replica of this host has them, without a word with a leader; and the page tokens of such lists.
//!
//! A page token of a plain list says where the page ended, and that is enough: each page has everything that was
//! answered before it. Pages of a stale list may come from hosts that are not equally far. A task that never moved
//! would be missed if the second page came from before its creation, and the first one from after it. So the token
//! also says how far the replica was and by which time it told scheduled tasks from due ones; no later page is older
//! than that.
//!
//! # Invariants
//! - The pages of one list are of indexes and times that never fall, whichever hosts answer.
//! # Not here
//! - Which host answers: [`Call::serve_stale`].

use z4_host::{Freshness, ListRequest, Test};
use z4_proto::convert::timestamp;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::PageToken;
use z4_types::{Index, Kind, Millis, QueueName, ShardId, TaskId};

use super::list::{Wish, bad_token, hex, unhex};
use crate::call::Call;
use crate::filters::{self, Wanted};
use crate::messages;

/// First byte of a token. That of a plain list begins with 1.
const TOKEN_VERSION: u8 = 2;
/// What stands before the plain token in it: version, index, time.
const TOKEN_HEAD: usize = 17;

/// Returns one task.
pub(super) async fn get(call: Call<'_>, shard: ShardId, id: TaskId) -> Result<v1::GetTaskResponse, Failure> {
    let (freshness, found) = call.read(call.handle().get_stale(id)).await?;
    let Some((info, result)) = found else {
        let what = format!("task {id} {}", not_there(call, shard, freshness));
        return Err(Failure::new(Kind::NotFound, reason::TASK_NOT_FOUND, what));
    };
    let mut task = messages::task(info, freshness.now);
    task.result = result.unwrap_or_default();
    Ok(v1::GetTaskResponse {
        task: Some(task),
        freshness: Some(message(call, freshness)),
        forwarded_to: String::new(),
    })
}

/// Returns a page of a queue's tasks, not older than the page before.
pub(super) async fn list(
    call: Call<'_>,
    queue: QueueName,
    request: v1::ListTasksRequest,
) -> Result<v1::ListTasksResponse, Failure> {
    let wish = Wish::of(&request)?;
    let before = Position::of(&request.page_token)?;
    let shard = call.handle().shard_of(&queue);
    let (at_least, not_before) = (before.applied, before.now);
    let asked = ListRequest {
        queue: queue.clone(),
        filter: wish.filter,
        after: before.after,
        limit: wish.limit,
        test: None,
    };
    let text = request.filter.clone();
    let wanted_at = move |now: Millis| {
        let now = now.max(not_before);
        match filters::wanted(&text, wish.filter_at(now), now) {
            Ok(Some(Wanted { filter, test })) => (filter, test),
            // Nothing can pass; it was checked with the request.
            _ => (wish.filter, Some(Test::new(|_| false))),
        }
    };
    let (freshness, page) = call.read(call.handle().list_stale(asked, at_least, wanted_at)).await?;
    let Some(page) = page else {
        let what = format!("queue {queue} {}", not_there(call, shard, freshness));
        return Err(Failure::new(Kind::NotFound, reason::QUEUE_NOT_FOUND, what));
    };
    let now = freshness.now.max(not_before);
    let next = page.next.map(|token| Position { after: Some(token), applied: freshness.applied, now });
    Ok(v1::ListTasksResponse {
        tasks: page.tasks.into_iter().map(|task| messages::task(task, now)).collect(),
        next_page_token: next.map(Position::to_text).unwrap_or_default(),
        freshness: Some(message(call, freshness)),
        forwarded_to: String::new(),
    })
}

/// Where the page before ended, and which state it showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    /// None before the first page.
    after: Option<PageToken>,
    /// Applied index of the replica that gave it.
    applied: Index,
    /// The time by which it told scheduled tasks from due ones.
    now: Millis,
}

impl Position {
    /// Reads a token; an empty one is the first page's.
    fn of(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Ok(Self { after: None, applied: Index(0), now: Millis(0) });
        }
        let bytes = unhex(text).ok_or_else(bad_token)?;
        if PageToken::from_bytes(&bytes).is_ok() {
            return Err(other_kind("was returned by a list without `stale`"));
        }
        let (head, after) = bytes.split_at_checked(TOKEN_HEAD).ok_or_else(bad_token)?;
        let number = |from: usize| head[from..from + 8].try_into().map(u64::from_le_bytes);
        match (head[0], number(1), number(9), PageToken::from_bytes(after)) {
            (TOKEN_VERSION, Ok(applied), Ok(now), Ok(after)) => {
                Ok(Self { after: Some(after), applied: Index(applied), now: Millis(now) })
            }
            _ => Err(bad_token()),
        }
    }

    fn to_text(self) -> String {
        let mut bytes = vec![TOKEN_VERSION];
        bytes.extend(self.applied.0.to_le_bytes());
        bytes.extend(self.now.0.to_le_bytes());
        bytes.extend(self.after.iter().flat_map(|token| token.to_bytes()));
        hex(&bytes)
    }
}

/// Refuses a token of a stale list where none belongs.
///
/// # Errors
/// If it is one.
pub(super) fn refuse_token(bytes: &[u8]) -> Result<(), Failure> {
    match bytes.first() {
        Some(&TOKEN_VERSION) => Err(other_kind("was returned by a list with `stale`")),
        _ => Ok(()),
    }
}

fn other_kind(why: &str) -> Failure {
    let what = format_args!("{why}: go on as that list began, or start again without it");
    Failure::invalid("page_token", reason::PAGE_TOKEN_INVALID, what)
}

/// Returns what to say of a thing that this replica does not have: "no" is an answer of one index, too.
fn not_there(call: Call<'_>, shard: ShardId, freshness: Freshness) -> String {
    let host = &call.handle().identity().host;
    format!(
        "does not exist as of entry {} of shard {shard}, which is as far as host {host} is; ask without `stale` for \
         what may have come since",
        freshness.applied
    )
}

fn message(call: Call<'_>, freshness: Freshness) -> v1::Freshness {
    v1::Freshness {
        host: call.handle().identity().host.0.clone(),
        applied: freshness.applied.0,
        time: Some(freshness.time).filter(|time| *time > Millis(0)).map(timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_that_of_another_list_is_refused() {
        let mut plain = vec![1];
        plain.extend([7; 24]);
        let after = PageToken::from_bytes(&plain).expect("a plain token");
        let position = Position { after: Some(after), applied: Index(300), now: Millis(5) };
        let text = position.to_text();
        assert_eq!(Position::of(&text), Ok(position));
        assert!(refuse_token(&unhex(&text).expect("hexadecimal")).is_err());
        assert!(refuse_token(&plain).is_ok());
        let refused = Position::of(&hex(&plain)).expect_err("of a plain list");
        assert!(refused.message.contains("without `stale`"), "{refused:?}");
        for wrong in ["0", "02", "zz", &text[2..], &text[..text.len() - 2], &format!("{text}00")] {
            assert_eq!(Position::of(wrong), Err(bad_token()), "{wrong}");
        }
    }
}
