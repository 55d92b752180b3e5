//! Reads of what a replica on this host has applied, without a word with a leader.
//!
//! Everything applied is committed, so a stale read shows what was true at one index of the shard's log, and may lack
//! what came behind it. It needs no majority: a host that is alone still knows what it knew. Each answer says which
//! index it is of ([`Freshness`]); whoever reads on can ask not to be taken back before what was seen.
//!
//! # Invariants
//! - A replica without data (its first snapshot has not come, or another one is being installed) answers nothing: an
//!   empty group would say "not found" of every task.
//! # Caveats
//! - After a restart a replica goes on where its last checkpoint was, until it hears again what is committed: the index
//!   may fall.

use std::sync::Arc;

use bytes::Bytes;
use z4_multiraft::{Applied, Driver, StateMachine as _};
use z4_registry::{Registry, Replica};
use z4_store::View;
use z4_tasks::{ListFilter, Page, TaskInfo};
use z4_types::{HostId, Index, Millis, ShardId, TaskId};

use super::Handle;
use super::reads::{ListRequest, Test, page, storage};
use crate::error::Error;
use crate::machine::HostMachine;
use crate::rows::RowsRef;
use crate::shard::{Reply, reply};

/// Which state of its shard a stale read shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The replica's applied index: the answer has every entry up to it, and none behind it.
    pub applied: Index,
    /// The shard's logged time as of that index, which the leader has stamped into the last entry with commands; 0
    /// before the first one. A shard at rest has an old one and is not behind.
    pub time: Millis,
    /// This host's clock, which tells scheduled tasks from due ones. Invariant: not before `time`.
    pub now: Millis,
}

impl Handle {
    /// Returns one task as this host's replica has it, None if it has none, and what its ack left behind.
    ///
    /// # Errors
    /// `NoReplica`; `NoSuchShard`; `Overloaded`, `Stopping`, `NotJoined`, `Removed`; `Storage`.
    pub async fn get_stale(
        &self,
        id: TaskId,
    ) -> Result<(Freshness, Option<(TaskInfo, Option<Bytes>)>), Error> {
        let shard = self.task_shard(id)?;
        let permit = self.permit(0)?;
        let (reply, answer) = reply();
        self.shared.runner.look(move |driver| {
            let found = applied(driver, shard, Index(0)).and_then(|(freshness, shown)| {
                let rows = RowsRef(shown.store);
                let Some(info) = z4_tasks::get(&rows, id).map_err(storage)? else {
                    return Ok((freshness, None));
                };
                let has_result = info.result_bytes.is_some();
                let result = if has_result { z4_tasks::result(&rows, id).map_err(storage)? } else { None };
                Ok((freshness, Some((info, result))))
            });
            reply(found);
            drop(permit);
        });
        answer.await.unwrap_or(Err(Error::Stopping))
    }

    /// Returns a page of a queue's tasks as this host's replica has them, None if it has no such queue. The replica
    /// must have applied `at_least`. `wanted_at` says what to list for the time of the answer; what the request says of it
    /// is not looked at.
    ///
    /// # Errors
    /// `Behind`, or as [`Handle::get_stale`].
    pub async fn list_stale(
        &self,
        request: ListRequest,
        at_least: Index,
        wanted_at: impl Fn(Millis) -> (ListFilter, Option<Test>) + Send + Sync + 'static,
    ) -> Result<(Freshness, Option<Page>), Error> {
        let shard = self.shard_of(&request.queue);
        let ask = |reply: Reply<(Freshness, View)>| {
            self.shared.runner.look(move |driver| {
                let view = applied(driver, shard, at_least).and_then(|(freshness, shown)| {
                    let view = shown.store.view().map_err(|e| Error::Storage(e.kind(), e.to_string()))?;
                    Ok((freshness, view))
                });
                reply(view);
            });
        };
        let read = move |freshness: Freshness, view: &View| {
            let (filter, test) = wanted_at(freshness.now);
            page(view, &ListRequest { filter, test, ..request.clone() })
        };
        self.viewed(ask, Arc::new(read)).await
    }

    /// Returns the other hosts that hold replicas of `shard`, in the order in which to ask them, each with host:port
    /// of its gRPC door. As far as this host knows; whether they have data, and are there at all, they say themselves.
    #[must_use]
    pub fn holders(&self, shard: ShardId) -> Vec<(HostId, String)> {
        holders(&self.registry(), shard, &self.identity().host)
    }
}

/// Returns the hosts other than `own` that hold replicas of `shard`, with their doors: those that shall keep them
/// first. Hosts begin at different ones, or all who hold none would ask the same.
fn holders(registry: &Registry, shard: ShardId, own: &HostId) -> Vec<(HostId, String)> {
    let mut replicas: Vec<&Replica> =
        registry.replicas_of(shard).iter().filter(|replica| replica.host != *own).collect();
    if !replicas.is_empty() {
        let place = registry.hosts.iter().position(|host| host.id == *own).unwrap_or(0);
        let first = place % replicas.len();
        replicas.rotate_left(first);
    }
    replicas.sort_by_key(|replica| replica.role);
    let hosts = replicas.into_iter().filter_map(|replica| registry.host(&replica.host));
    let open = hosts.filter(|host| host.is_member() && !host.service.is_empty());
    open.map(|host| (host.id.clone(), host.service.clone())).collect()
}

/// Returns what the replica of `shard` has applied.
fn applied(
    driver: &mut Driver<HostMachine>,
    shard: ShardId,
    at_least: Index,
) -> Result<(Freshness, Applied<'_, HostMachine>), Error> {
    let shown = driver.applied(shard).ok_or(Error::NoReplica(shard))?;
    let applied = shown.store.meta().applied;
    if applied < at_least {
        return Err(Error::Behind { shard, applied, at_least });
    }
    Ok((Freshness { applied, time: shown.machine.now(), now: shown.now }, shown))
}

#[cfg(test)]
mod tests {
    use super::super::reads::tests::task;
    use super::*;
    use crate::config::Config;
    use crate::running::Host;
    use z4_registry::{Host as Member, Role};
    use z4_tasks::command::Due;
    use z4_tasks::{Phase, TaskState};
    use z4_types::{ClusterId, Duration, QueueName};

    #[tokio::test]
    async fn a_stale_read_shows_one_index_and_is_not_taken_back_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::start(&Config::single("one", dir.path()), |_| {}).expect("starts");
        assert!(host.wait_until_serving(std::time::Duration::from_secs(60)), "leads its shards");
        let handle = host.handle();
        let queue = QueueName::new("mail").expect("valid");
        let tasks = [task(Due::Now), task(Due::After(Duration(3_600_000)))];
        let created = handle.create(queue.clone(), None, &tasks).await.expect("creates");
        let id = created[1].as_ref().expect("created").id;
        let (freshness, found) = handle.get_stale(id).await.expect("answers");
        let (info, result) = found.expect("is there");
        assert_eq!(result, None, "it was not acked");
        assert!(matches!(info.state, TaskState::Waiting { deliver_at } if deliver_at > freshness.now));
        assert!(freshness.applied > Index(1) && freshness.now >= freshness.time);
        assert_eq!(freshness.time, info.created_at, "the create was the last entry");
        let gone = TaskId(id.0 ^ 1 << 20);
        assert_eq!(handle.get_stale(gone).await.expect("answers").1, None);

        let request = |queue: &QueueName| ListRequest {
            queue: queue.clone(),
            filter: ListFilter::default(),
            after: None,
            limit: 100,
            test: None,
        };
        let due = |now: Millis| (ListFilter { state: Some(Phase::Waiting), from: None, to: Some(now) }, None);
        let all = |_| (ListFilter::default(), None);
        let list = handle.list_stale(request(&queue), freshness.applied, all);
        assert_eq!(list.await.expect("answers").1.expect("a page").tasks.len(), 2);
        let list = handle.list_stale(request(&queue), Index(0), due);
        assert_eq!(
            list.await.expect("answers").1.expect("a page").tasks.len(),
            1,
            "by the time of the answer"
        );
        let unknown = QueueName::new("unknown").expect("valid");
        assert_eq!(handle.list_stale(request(&unknown), Index(0), all).await.expect("answers").1, None);
        let ahead = Index(freshness.applied.0 + 1_000);
        let behind = handle.list_stale(request(&queue), ahead, all).await.expect_err("not there yet");
        assert!(matches!(behind, Error::Behind { at_least, .. } if at_least == ahead), "{behind}");
        assert_eq!(handle.request_bytes(), 0, "room is given back");
        host.stop().expect("stops");
        assert_eq!(handle.get_stale(id).await.expect_err("is refused"), Error::Stopping);
    }

    #[test]
    fn who_keeps_its_replica_is_asked_first_and_hosts_begin_at_different_ones() {
        let host = |name: &str| {
            let mut host = Member::new(HostId(name.into()), format!("{name}:1"));
            host.service = format!("{name}:2");
            host
        };
        let mut registry = Registry::form(ClusterId(1), "z4", host("a"), 1);
        registry.hosts.extend(["b", "c", "d", "e"].map(host));
        registry.hosts[4].service.clear();
        let replica = |(id, name, role): (u64, &str, Role)| Replica { id, host: HostId(name.into()), role };
        registry.shards[1].replicas = [
            (1, "a", Role::Leaving),
            (2, "b", Role::Voter),
            (3, "c", Role::Learner),
            (4, "d", Role::Voter),
            (5, "e", Role::Voter),
        ]
        .map(replica)
        .to_vec();
        let check = |own: &str, expected: &[&str]| {
            let found = holders(&registry, ShardId(1), &HostId(own.into()));
            let names: Vec<&str> = found.iter().map(|(host, _)| &*host.0).collect();
            assert_eq!(names, expected, "from {own}");
            assert!(found.iter().all(|(host, service)| *service == format!("{}:2", host.0)));
        };
        check("nobody", &["b", "d", "c", "a"]);
        check("d", &["b", "c", "a"]);
        check("c", &["d", "b", "a"]);
        assert!(holders(&registry, ShardId(9), &HostId("a".into())).is_empty());
    }
}
