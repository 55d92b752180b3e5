//! Linearizable reads: a leader confirms with a quorum that it still leads, then answers.
//!
//! Small ones are answered on the driver's thread. Lists and pages of queues read a frozen view on a blocking thread,
//! so that a long one holds nobody up.
//!
//! # Invariants
//! - At most `VIEWS_MAX` views are held at a time.
//! # Not here
//! - Reads of what a replica has applied, without a leader: `stale.rs`.

use std::sync::Arc;

use tokio::sync::oneshot;
use z4_multiraft::Input;
use z4_store::View;
use z4_tasks::{Fault, ListFilter, Page, PageToken, QueueInfo, QueueStats, TaskInfo};
use z4_types::limits::LIST_PAGE_MAX;
use z4_types::{Kind, Millis, QueueName, ShardId, TaskId};

use super::Handle;
use crate::error::Error;
use crate::rows::ViewRows;
use crate::shard::{Read, Reply, reply};

/// Views held at a time; further lists wait. A view keeps old pages of the base and the working set of its time alive.
pub(super) const VIEWS_MAX: usize = 16;
/// Tasks that are looked at for one page of a list with a test, give or take a thousand: a tenth of a second.
const LOOKED_MAX: usize = 10_000;
/// Reads of a thousand tasks, or 2 MiB of them, for such a page.
const READS_MAX: usize = 32;
/// Bytes of tasks that have passed after which such a page ends; the last read may add 2 MiB.
const PASSED_BYTES_MAX: usize = 1 << 20;

/// What to list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// The queue.
    pub queue: QueueName,
    /// Which of its tasks.
    pub filter: ListFilter,
    /// Where the last page ended.
    pub after: Option<PageToken>,
    /// Most tasks to return.
    pub limit: u32,
    /// Shows only those that pass. A page may then be empty and not the last: so many were looked at as one may.
    pub test: Option<Test>,
}

/// Judges tasks, for a list. Runs on a blocking thread.
#[derive(Clone)]
pub struct Test(Arc<dyn Fn(&TaskInfo) -> bool + Send + Sync>);

impl Test {
    /// Returns a test by a function.
    pub fn new(passes: impl Fn(&TaskInfo) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(passes))
    }
}

impl std::fmt::Debug for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Test")
    }
}

impl Handle {
    /// Returns one task with everything known of it, and the shard time the answer is of. Linearizable.
    ///
    /// # Errors
    /// `TaskNotFound`, `NoSuchShard`, or as [`Handle::create`].
    pub async fn get(&self, id: TaskId) -> Result<(Millis, TaskInfo), Error> {
        let shard = self.task_shard(id)?;
        let (now, found) = self.read(shard, |reply| Read::Get { id, reply }).await?;
        found.map(|info| (now, info)).ok_or(Error::TaskNotFound(id))
    }

    /// Returns a page of a queue's tasks in order of due time, and the shard time it is of. An unknown queue is
    /// not created.
    ///
    /// # Errors
    /// `QueueNotFound`, or as [`Handle::create`].
    pub async fn list(&self, request: ListRequest) -> Result<(Millis, Page), Error> {
        let shard = self.shard_of(&request.queue);
        let queue = request.queue.clone();
        let (now, page) = self.view(shard, Arc::new(move |view: &View| page(view, &request))).await?;
        page.map(|page| (now, page)).ok_or(Error::QueueNotFound(queue))
    }

    /// Returns a queue's counters and the shard time they are of. An unknown queue is not created. Linearizable.
    ///
    /// # Errors
    /// `QueueNotFound`, or as [`Handle::create`].
    pub async fn queue(&self, queue: QueueName) -> Result<(Millis, QueueInfo), Error> {
        let shard = self.shard_of(&queue);
        let asked = queue.clone();
        let (now, info, _) = self.read(shard, |reply| Read::Queue { queue: asked, reply }).await?;
        info.map(|info| (now, info)).ok_or(Error::QueueNotFound(queue))
    }

    /// Returns whether a task of `queue` is due now, so that a Lease would pick it. False for an unknown queue.
    ///
    /// # Errors
    /// As [`Handle::create`].
    pub async fn has_due(&self, queue: QueueName) -> Result<bool, Error> {
        let shard = self.shard_of(&queue);
        let (now, _, due) = self.read(shard, |reply| Read::Queue { queue, reply }).await?;
        Ok(due.is_some_and(|at| at <= now))
    }

    /// Returns up to `limit` queues of one shard by name with their counters, those after `after`.
    ///
    /// # Errors
    /// As [`Handle::create`].
    pub async fn queues_of(
        &self,
        shard: ShardId,
        after: Option<QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueStats)>, Error> {
        let page = Arc::new(move |view: &View| z4_tasks::queues(&ViewRows(view), after.as_ref(), limit));
        let (_, infos) = self.view(shard, page).await?;
        Ok(infos.into_iter().map(|info: QueueInfo| (info.name, info.stats)).collect())
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        shard: ShardId,
        read: impl FnOnce(Reply<T>) -> Read,
    ) -> Result<T, Error> {
        let permit = self.permit(0)?;
        let (reply, answer) = reply();
        // With the call and not with the caller: one that stops waiting does not take back what it has sent.
        let reply = Box::new(move |answer| {
            reply(answer);
            drop(permit);
        });
        self.shared.runner.send(Input::Read(shard, read(reply)));
        answer.await.unwrap_or(Err(Error::Stopping))
    }

    /// Reads a frozen view of a shard that this host leads on a blocking thread; returns the shard time it is of, and
    /// what was read.
    pub(super) async fn view<T: Send + 'static>(
        &self,
        shard: ShardId,
        read: Arc<impl Fn(&View) -> Result<T, Fault> + Send + Sync + 'static>,
    ) -> Result<(Millis, T), Error> {
        let ask = |reply| self.shared.runner.send(Input::Read(shard, Read::View { reply }));
        self.viewed(ask, Arc::new(move |_: Millis, view: &View| read(view))).await
    }

    /// Reads the view that `ask` asks for on a blocking thread; returns what is said of it, and what was read. What it
    /// takes of the host's memory is held until the view is gone, whether or not the caller still waits. A view that
    /// the base has lost is replaced, once.
    pub(super) async fn viewed<S: Copy + Send + 'static, T: Send + 'static>(
        &self,
        ask: impl Fn(Reply<(S, View)>),
        read: Arc<impl Fn(S, &View) -> Result<T, Fault> + Send + Sync + 'static>,
    ) -> Result<(S, T), Error> {
        let permit = self.permit(0)?;
        // Never closed.
        let turn = Arc::clone(&self.shared.views).acquire_owned().await.map_err(|_| Error::Stopping)?;
        let held = Arc::new((permit, turn));
        let mut retried = false;
        loop {
            let (reply, answer) = oneshot::channel();
            let with_view = Arc::clone(&held);
            ask(Box::new(move |answer: Result<(S, View), Error>| {
                // Whoever drops the view drops what it holds.
                drop(reply.send(answer.map(|(said, view)| (said, view, with_view))));
            }));
            let (said, view, held) = answer.await.unwrap_or(Err(Error::Stopping))?;
            let read = Arc::clone(&read);
            let result = blocking(move || {
                let result = read(said, &view).map_err(storage);
                drop(view);
                drop(held);
                result
            })
            .await;
            match result {
                Err(Error::Storage(Kind::Unavailable, _)) if !retried => retried = true,
                result => return result.map(|found| (said, found)),
            }
        }
    }
}

/// Reads a page from a view; None if there is no such queue.
pub(super) fn page(view: &View, request: &ListRequest) -> Result<Option<Page>, Fault> {
    let ListRequest { queue, filter, after, limit, test } = request;
    let rows = ViewRows(view);
    if z4_tasks::queue(&rows, queue)?.is_none() {
        return Ok(None);
    }
    match test {
        None => z4_tasks::list(&rows, queue, *filter, after.as_ref(), *limit).map(Some),
        Some(test) => tested_page(&rows, request, test).map(Some),
    }
}

/// Reads pages until enough of their tasks have passed, or enough were looked at.
fn tested_page(rows: &ViewRows<'_>, request: &ListRequest, test: &Test) -> Result<Page, Fault> {
    let limit = request.limit.clamp(1, LIST_PAGE_MAX) as usize;
    let mut page = Page { tasks: Vec::new(), next: request.after };
    let (mut looked, mut bytes) = (0, 0);
    for _ in 0..READS_MAX {
        let found = z4_tasks::list(rows, &request.queue, request.filter, page.next.as_ref(), LIST_PAGE_MAX)?;
        looked += found.tasks.len();
        for task in found.tasks.into_iter().filter(|task| (test.0)(task)) {
            if page.tasks.len() == limit {
                page.next = page.tasks.last().map(PageToken::after);
                return Ok(page);
            }
            bytes += task.weight();
            page.tasks.push(task);
        }
        page.next = found.next;
        let enough = page.tasks.len() == limit || looked >= LOOKED_MAX || bytes >= PASSED_BYTES_MAX;
        if page.next.is_none() || enough {
            break;
        }
    }
    Ok(page)
}

pub(super) fn storage(error: Fault) -> Error {
    Error::Storage(error.kind, error.what)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Stopping))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Config;
    use crate::running::Host;
    use z4_tasks::command::{Due, NewTask};

    pub(in crate::handle) fn task(due: Due) -> NewTask {
        NewTask { payload: vec![7; 10].into(), due, ..NewTask::default() }
    }

    #[tokio::test]
    async fn queues_come_in_pages_and_reads_give_their_room_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::start(&Config::single("one", dir.path()), |_| {}).expect("starts");
        assert!(host.wait_until_serving(std::time::Duration::from_secs(60)), "leads its shards");
        let handle = host.handle();
        let names: Vec<_> = (0..10).map(|n| QueueName::new(&format!("q{n}")).expect("valid")).collect();
        for (at, name) in names.iter().enumerate() {
            let tasks = vec![task(Due::Now); at + 1];
            handle.create(name.clone(), None, &tasks).await.expect("creates");
        }
        let mut listed = Vec::new();
        for shard in (1..=4).map(ShardId) {
            let mut last = None;
            while let page = handle.queues_of(shard, last.clone(), 3).await.expect("a page")
                && !page.is_empty()
            {
                assert!(page.len() <= 3);
                last = page.last().map(|(name, _)| name.clone());
                listed.extend(page.into_iter().map(|(name, _)| name));
            }
        }
        listed.sort();
        assert_eq!(listed, names);
        let request =
            |queue| ListRequest { queue, filter: ListFilter::default(), after: None, limit: 100, test: None };
        let (_, page) = handle.list(request(names[4].clone())).await.expect("a page");
        assert_eq!(page.tasks.len(), 5);
        let unknown = QueueName::new("unknown").expect("valid");
        assert_eq!(
            handle.list(request(unknown.clone())).await.err(),
            Some(Error::QueueNotFound(unknown)),
            "and it is not created"
        );
        let snapshot = handle.snapshot().await.expect("a snapshot");
        assert_eq!((snapshot.queues_total, snapshot.totals.waiting), (10, 55));
        assert_eq!(snapshot.queues[0].0, names[9], "the largest backlog first");
        assert_eq!((handle.request_bytes(), handle.shared.views.available_permits()), (0, VIEWS_MAX));
        host.stop().expect("stops");
    }
}
