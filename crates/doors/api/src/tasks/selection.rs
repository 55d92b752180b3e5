//! Change all tasks of a queue that pass a filter: list a page of them, change those that are still as they were listed, go on.
//!
//! Filters are no part of the log (ADR-0011): what is proposed is ids with the etags that were listed, so a task that
//! changed in between is refused by the machine, and counted as skipped. Each page is a batch of its own and others go
//! between them (`batches.rs`). When the call's time is up the answer's token says where to go on, and what the first
//! call settled: the time from which delays count, and how many tasks are done.
//!
//! # Invariants
//! - A walk meets no task twice that it has changed: cancelled and redriven ones have left what is listed, those that were
//!   made due lie behind, and one that an update put further ahead is as asked for already.
//! # Caveats
//! - If the answer to a batch is lost, its tasks are changed and counted by nobody.

use tokio::time::{Instant, sleep};
use z4_host::ListRequest;
use z4_proto::convert::Change;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::{Due, Target};
use z4_tasks::outcome::Refusal;
use z4_tasks::{ListFilter, PageToken, Phase, TaskInfo};
use z4_types::{Duration, Millis, QueueName};

use super::list::{bad_token, hex, unhex};
use super::redrive::Spread;
use crate::batches::{BATCH, is_time_for_another, may_go_on};
use crate::call::Call;
use crate::filters::{self, Wanted};

/// First byte of a token. Those of lists begin with others.
const TOKEN_VERSION: u8 = 3;
/// What stands before the list's token in it: version, time, count.
const TOKEN_HEAD: usize = 17;

/// What is done to the tasks.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    /// To all that have not ended.
    Cancel,
    /// To those that wait, and are not so already.
    Update(Change),
    /// To those that are scheduled.
    Run,
    /// To dead ones.
    Redrive(Spread),
}

/// Returns the selection of a request that can also name ids; None: it does.
///
/// # Errors
/// If it has both; if the filter cannot be read.
pub(super) fn either(
    ids: &[String],
    selection: Option<&v1::Selection>,
) -> Result<Option<v1::Selection>, Failure> {
    if selection.is_none() {
        return Ok(None);
    }
    if !ids.is_empty() {
        let what = "goes without ids; make two calls of it";
        return Err(Failure::invalid("selection", reason::FIELD_INVALID, what));
    }
    selected(selection).map(Some)
}

/// Returns the selection of a request that must have one.
///
/// # Errors
/// If it has none; if the filter cannot be read.
pub(super) fn selected(selection: Option<&v1::Selection>) -> Result<v1::Selection, Failure> {
    let what = "name the queue and the filter";
    let selection =
        selection.ok_or_else(|| Failure::invalid("selection", reason::FIELD_MISSING, what))?.clone();
    filters::check(&selection.filter)?;
    Position::of(&selection.page_token)?;
    Ok(selection)
}

/// Does the deed to all tasks that are selected, as far as there is time. The queue's shard is led here.
///
/// # Errors
/// If nothing could be done.
pub(super) async fn all(
    call: Call<'_>,
    queue: QueueName,
    selection: v1::Selection,
    deed: Deed,
) -> Result<v1::Matched, Failure> {
    let (now, _) = call.read(call.handle().queue(queue.clone())).await?;
    let mut at = Position::of(&selection.page_token)?;
    let began = *at.began.get_or_insert(now);
    let deed = deed.since(began);
    let mut matched = v1::Matched::default();
    let Some(Wanted { filter, test }) = filters::wanted(&selection.filter, deed.concerns(now), now)? else {
        return Ok(matched);
    };
    loop {
        let batch_began = Instant::now();
        let (after, test) = (at.after, test.clone());
        let request = ListRequest { queue: queue.clone(), filter, after, limit: BATCH, test };
        let listed = call.read(call.handle().list(request)).await;
        let done = match listed {
            Ok((_, page)) => {
                let tasks: Vec<TaskInfo> = page.tasks.into_iter().filter(|task| deed.changes(task)).collect();
                let count = if selection.dry_run {
                    Ok((tasks.len() as u64, 0))
                } else {
                    deed.apply(call, tasks, began, at.done).await
                };
                count.map(|(changed, skipped)| (changed, skipped, page.next))
            }
            Err(failure) => Err(failure),
        };
        let (changed, skipped, next) = match done {
            Ok(done) => done,
            // What was done is told, and the next call meets what was in the way.
            Err(failure) if matched != v1::Matched::default() && may_go_on(&failure) => {
                matched.next_page_token = at.to_text();
                return Ok(matched);
            }
            Err(failure) => return Err(failure),
        };
        matched.changed += changed;
        matched.skipped += skipped;
        at.done += changed;
        let Some(next) = next else { return Ok(matched) };
        at.after = Some(next);
        if !is_time_for_another(call, batch_began) {
            matched.next_page_token = at.to_text();
            return Ok(matched);
        }
        if !selection.dry_run && changed > 0 {
            sleep(batch_began.elapsed()).await;
        }
    }
}

impl Deed {
    /// Returns it with delays as times, counted from the first call: a walk that meets a task again finds it as asked for.
    fn since(self, began: Millis) -> Self {
        match self {
            Self::Update(Change { due: Some(Due::After(delay)), priority, payload, metadata }) => {
                Self::Update(Change { due: Some(Due::At(began + delay)), priority, payload, metadata })
            }
            Self::Update(Change { due: Some(Due::Now), priority, payload, metadata }) => {
                Self::Update(Change { due: Some(Due::At(began)), priority, payload, metadata })
            }
            deed => deed,
        }
    }

    /// Returns which tasks it can be about.
    fn concerns(&self, now: Millis) -> ListFilter {
        let (state, from) = match self {
            Self::Cancel => (None, None),
            Self::Update(_) => (Some(Phase::Waiting), None),
            Self::Run => (Some(Phase::Waiting), Some(now + Duration(1))),
            Self::Redrive(_) => (Some(Phase::Dead), None),
        };
        ListFilter { state, from, to: None }
    }

    /// Returns whether a task of these would be another one afterwards. Ended tasks, which a filter may ask for, are not cancelled.
    fn changes(&self, task: &TaskInfo) -> bool {
        match self {
            Self::Cancel => !matches!(task.state, z4_tasks::TaskState::Finished { .. }),
            Self::Run | Self::Redrive(_) => true,
            Self::Update(Change { due, priority, payload, metadata }) => {
                due.is_some_and(|due| due != Due::At(task.deliver_at))
                    || priority.is_some_and(|priority| priority != task.priority)
                    || payload.as_ref().is_some_and(|payload| *payload != task.payload)
                    || metadata.as_ref().is_some_and(|metadata| *metadata != task.metadata)
            }
        }
    }

    /// Does it to a batch of tasks; returns how many were changed, and how many were not there any more as listed.
    async fn apply(
        &self,
        call: Call<'_>,
        tasks: Vec<TaskInfo>,
        began: Millis,
        done: u64,
    ) -> Result<(u64, u64), Failure> {
        if tasks.is_empty() {
            return Ok((0, 0));
        }
        let etag = |task: &TaskInfo| u64::from(task.revision);
        let target = |task: &TaskInfo| Target::id(task.id, Some(etag(task)));
        let handle = call.handle();
        match self {
            Self::Cancel => count(&call.write(handle.cancel_if(tasks.iter().map(target).collect())).await?),
            Self::Update(change) => {
                let updates = tasks.iter().map(|task| change.of(target(task))).collect();
                drop(tasks);
                count(&call.write(handle.update_tasks(updates)).await?)
            }
            Self::Run => count(&call.write(handle.run_now(tasks.iter().map(target).collect())).await?),
            Self::Redrive(spread) => {
                // From the first call on, whatever time this one comes.
                let passed = handle.wall().since(began);
                let delay = |number| Duration(spread.delay(number).0.saturating_sub(passed.0));
                let tasks = (done..).zip(&tasks).map(|(number, task)| (target(task), delay(number)));
                count(&call.write(handle.redrive(tasks.collect())).await?)
            }
        }
    }
}

/// Counts what was done and what had changed meanwhile.
fn count<T>(answers: &[Result<T, Refusal>]) -> Result<(u64, u64), Failure> {
    let changed = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
    Ok((changed, answers.len() as u64 - changed))
}

/// Where a walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    /// None: at its beginning.
    after: Option<PageToken>,
    /// When its first call came, by shard time; None: this is the first.
    began: Option<Millis>,
    /// Tasks that were changed.
    done: u64,
}

impl Position {
    fn of(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Ok(Self { after: None, began: None, done: 0 });
        }
        let bytes = unhex(text).ok_or_else(bad_token)?;
        let (head, after) = bytes.split_at_checked(TOKEN_HEAD).ok_or_else(bad_token)?;
        let number = |from: usize| head[from..from + 8].try_into().map(u64::from_le_bytes);
        let after = if after.is_empty() { Ok(None) } else { PageToken::from_bytes(after).map(Some) };
        match (head[0], number(1), number(9), after) {
            (TOKEN_VERSION, Ok(began), Ok(done), Ok(after)) => {
                Ok(Self { after, began: Some(Millis(began)), done })
            }
            _ => Err(bad_token()),
        }
    }

    fn to_text(self) -> String {
        let mut bytes = vec![TOKEN_VERSION];
        bytes.extend(self.began.unwrap_or_default().0.to_le_bytes());
        bytes.extend(self.done.to_le_bytes());
        bytes.extend(self.after.iter().flat_map(|token| token.to_bytes()));
        hex(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_that_of_a_list_is_refused() {
        let mut plain = vec![1];
        plain.extend([7; 24]);
        let after = PageToken::from_bytes(&plain).expect("a plain token");
        for after in [None, Some(after)] {
            let position = Position { after, began: Some(Millis(5)), done: 300 };
            assert_eq!(Position::of(&position.to_text()), Ok(position));
        }
        for wrong in ["0", "03", "zz", &hex(&plain)] {
            assert_eq!(Position::of(wrong), Err(bad_token()), "{wrong}");
        }
    }

    #[test]
    fn either_ids_or_a_selection() {
        let selection = v1::Selection { queue: "mail".into(), ..Default::default() };
        assert_eq!(either(&["x".into()], None), Ok(None));
        assert!(either(&["x".into()], Some(&selection)).is_err());
        assert_eq!(either(&[], Some(&selection)), Ok(Some(selection.clone())));
        let wrong = v1::Selection { filter: "priority > high".into(), ..selection };
        assert_eq!(selected(Some(&wrong)).expect_err("no number").reason, "FILTER_INVALID");
        assert!(selected(None).is_err());
    }
}
