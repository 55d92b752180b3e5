//! Stale reads: any host that holds a replica answers by itself, also without a majority; all other reads ask a leader.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use z4_client::{Error, ListTasks, NewTask, TaskId};
use z4_proto::status::Failure;
use z4_proto::v1::tasks_client::TasksClient;
use z4_proto::{reason, v1};
use z4_types::{Kind, QueueName};

use super::machines::{Cluster, NAMES, PATIENCE, QUEUES, until};

/// A call that names no deadline ends after so long at the server.
const CALL_DEFAULT: Duration = Duration::from_secs(10);

/// Returns a client that asks this host and no other, once.
fn door(cluster: &Cluster, at: usize) -> TasksClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", cluster.machines[at].service));
    TasksClient::new(endpoint.expect("an address").connect_lazy())
}

async fn get(cluster: &Cluster, at: usize, id: TaskId, stale: bool) -> Result<v1::GetTaskResponse, Status> {
    let request = v1::GetTaskRequest { id: id.to_string(), stale, ..Default::default() };
    let call = async { door(cluster, at).get_task(request).await };
    timeout(PATIENCE, call).await.expect("every call ends").map(tonic::Response::into_inner)
}

fn wish(stale: bool) -> v1::ListTasksRequest {
    v1::ListTasksRequest { queue: "mail".into(), page_size: 2, stale, ..Default::default() }
}

async fn list(
    cluster: &Cluster,
    at: usize,
    request: v1::ListTasksRequest,
) -> Result<v1::ListTasksResponse, Status> {
    let call = async { door(cluster, at).list_tasks(request).await };
    timeout(PATIENCE, call).await.expect("every call ends").map(tonic::Response::into_inner)
}

/// Waits until every host shows the task, or one that it asks.
async fn shown_everywhere(cluster: &Cluster, id: TaskId) {
    for at in 0..NAMES.len() {
        until("the task is applied everywhere", || async { get(cluster, at, id, true).await.ok() }).await;
    }
}

fn failure<T: std::fmt::Debug>(answer: Result<T, Status>) -> Failure {
    Failure::from_status(&answer.expect_err("is refused"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_read_is_answered_by_whoever_is_asked_and_a_plain_one_by_the_leader() {
    let cluster = Cluster::start().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(cluster.client(0).create("mail", NewTask::new(format!("{number}"))).await.expect("created"));
    }
    shown_everywhere(&cluster, ids[4]).await;
    for (at, name) in NAMES.iter().enumerate() {
        let stale = get(&cluster, at, ids[0], true).await.expect("answers");
        assert_eq!(stale.forwarded_to, "", "by itself");
        let freshness = stale.freshness.expect("says how fresh it is");
        assert_eq!((freshness.host.as_str(), freshness.time.is_some()), (*name, true));
        assert!(freshness.applied > 1);
        let plain = get(&cluster, at, ids[0], false).await.expect("answers");
        assert_eq!(plain.freshness, None);
        assert_eq!(plain.task, stale.task, "nothing moves here");
    }

    // Each page from another host.
    let (mut request, mut listed, mut newest) = (wish(true), Vec::new(), 0);
    for at in [1, 2, 0] {
        let page = list(&cluster, at, request.clone()).await.expect("a page");
        let freshness = page.freshness.expect("says how fresh it is");
        assert_eq!(freshness.host, NAMES[at]);
        assert!(freshness.applied >= newest, "never older than the page before");
        newest = freshness.applied;
        listed.extend(page.tasks.into_iter().map(|task| task.id));
        request.page_token = page.next_page_token;
    }
    assert_eq!(request.page_token, "", "all pages");
    assert_eq!(listed, ids.iter().map(TaskId::to_string).collect::<Vec<_>>());

    let of_stale = list(&cluster, 0, wish(true)).await.expect("a page").next_page_token;
    let of_plain = list(&cluster, 0, wish(false)).await.expect("a page");
    assert_eq!(of_plain.freshness, None);
    let mixed = [(false, &of_stale), (true, &of_plain.next_page_token)];
    for (stale, token) in mixed {
        let request = v1::ListTasksRequest { page_token: token.clone(), ..wish(stale) };
        let refused = failure(list(&cluster, 1, request).await);
        assert_eq!((refused.kind, &*refused.reason), (Kind::Invalid, reason::PAGE_TOKEN_INVALID));
    }
    // Nobody has got as far as this page: it is no page of an older state, but none.
    let ahead = format!("02ffffffffffffff00{}", &of_stale[18..]);
    let begun = Instant::now();
    let refused = failure(list(&cluster, 1, v1::ListTasksRequest { page_token: ahead, ..wish(true) }).await);
    assert_eq!((refused.kind, &*refused.reason), (Kind::Unavailable, reason::NO_REPLICA), "{refused:?}");
    assert!(begun.elapsed() < 2 * CALL_DEFAULT);

    let gone = failure(get(&cluster, 1, TaskId(ids[0].0 ^ 1 << 20), true).await);
    assert_eq!((gone.kind, &*gone.reason), (Kind::NotFound, reason::TASK_NOT_FOUND));
    assert!(gone.message.contains("host b") && gone.message.contains("stale"), "{}", gone.message);
    let unknown = v1::ListTasksRequest { queue: "unknown".into(), ..wish(true) };
    assert_eq!(&*failure(list(&cluster, 1, unknown).await).reason, reason::QUEUE_NOT_FOUND);
    cluster.stop();
}

/// What was answered is seen by every plain read that begins later, on any host. A stale one may miss it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_read_misses_nothing_that_was_answered_before() {
    let cluster = Cluster::start().await;
    let mut missed = 0;
    for round in 0..50 {
        let mut writer = door(&cluster, round % NAMES.len());
        let task = Some(v1::NewTask::default());
        let create = v1::CreateTaskRequest { queue: "mail".into(), task, request_id: String::new() };
        let id = writer.create_task(create).await.expect("created").into_inner().id;
        let id: TaskId = id.parse().expect("an id");
        for (at, name) in NAMES.iter().enumerate() {
            missed += usize::from(get(&cluster, at, id, true).await.is_err());
            assert!(get(&cluster, at, id, false).await.is_ok(), "round {round}, asked of {name}");
        }
        writer
            .cancel_tasks(v1::CancelTasksRequest { ids: vec![id.to_string()], ..Default::default() })
            .await
            .expect("cancels");
        for (at, name) in NAMES.iter().enumerate() {
            let gone = get(&cluster, at, id, false).await.expect_err("is cancelled");
            assert_eq!(gone.code(), Code::NotFound, "round {round}, asked of {name}");
        }
    }
    println!("{missed} of 150 stale reads came before the task");
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_alone_answers_stale_reads_and_no_others() {
    let mut cluster = Cluster::start().await;
    let mut ids = Vec::new();
    for queue in QUEUES {
        ids.push(cluster.client(0).create(queue, NewTask::new(queue)).await.expect("created"));
        shown_everywhere(&cluster, *ids.last().expect("pushed")).await;
    }
    let other = *ids.iter().find(|id| id.shard() != ids[0].shard()).expect("two shards");
    // It led the shard of mail: it has everything, and cannot know whether it is the newest.
    let alone = cluster.leader("mail").await;
    for at in (0..NAMES.len()).filter(|at| *at != alone) {
        cluster.kill(at);
    }
    // At once, while it may still take itself for the leader, and later.
    for _ in 0..2 {
        let begun = Instant::now();
        for id in &ids {
            let reply = get(&cluster, alone, *id, true).await.expect("answers");
            assert_eq!(reply.freshness.expect("says how fresh it is").host, NAMES[alone]);
        }
        let page = list(&cluster, alone, wish(true)).await.expect("answers");
        assert_eq!((page.tasks.len(), page.next_page_token.as_str()), (1, ""));
        assert!(begun.elapsed() < CALL_DEFAULT, "it asks nobody");

        let begun = Instant::now();
        // Both shards, side by side.
        let (mail, other, page) = tokio::join!(
            get(&cluster, alone, ids[0], false),
            get(&cluster, alone, other, false),
            list(&cluster, alone, wish(false)),
        );
        for refused in [failure(mail), failure(other), failure(page)] {
            assert_eq!(refused.kind, Kind::Unavailable, "{refused:?}");
        }
        assert!(begun.elapsed() < 2 * CALL_DEFAULT, "within its deadline");
    }

    let client = cluster.client(alone);
    let (task, freshness) = client.get_stale(ids[0]).await.expect("answers");
    assert_eq!((task.id, freshness.expect("is stale").host.as_str()), (ids[0], NAMES[alone]));
    let stale = ListTasks { queue: "mail".into(), stale: true, ..Default::default() };
    let page = client.list(stale).await.expect("answers");
    assert_eq!((page.items.len(), page.freshness.expect("is stale").host.as_str()), (1, NAMES[alone]));

    cluster.start_again(alone).await;
    let again = until("it serves again", || async { get(&cluster, alone, ids[0], true).await.ok() }).await;
    assert_eq!(again.freshness.expect("says how fresh it is").host, NAMES[alone]);
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_a_replica_asks_those_that_hold_one_until_one_answers() {
    let mut cluster = Cluster::replicated(2).await;
    let id = cluster.client(0).create("mail", NewTask::new("x")).await.expect("created");
    let shard = cluster.machines[0].host.handle().shard_of(&QueueName::new("mail").expect("a name"));
    let registry = cluster.machines[0].host.handle().registry();
    let hosts: BTreeSet<&str> = registry.replicas_of(shard).iter().map(|each| &*each.host.0).collect();
    assert_eq!(hosts.len(), 2);
    let outside = NAMES.iter().position(|name| !hosts.contains(name)).expect("it has two replicas");
    shown_everywhere(&cluster, id).await;

    let place = |name: &str| NAMES.iter().position(|each| *each == name).expect("a host");
    let reply = get(&cluster, outside, id, true).await.expect("answers");
    let first = place(&reply.freshness.expect("says how fresh it is").host);
    assert_eq!(reply.forwarded_to, cluster.machines[first].service, "which holds a replica");
    cluster.kill(first);
    let reply = get(&cluster, outside, id, true).await.expect("the other one answers");
    let second = place(&reply.freshness.expect("says how fresh it is").host);
    assert!(second != first && second != outside);
    let page = list(&cluster, outside, wish(true)).await.expect("the other one answers");
    assert_eq!((page.tasks.len(), page.forwarded_to), (1, cluster.machines[second].service.clone()));
    let refused = failure(get(&cluster, outside, id, false).await);
    assert_eq!(refused.kind, Kind::Unavailable, "one of two is no majority: {refused:?}");

    cluster.kill(second);
    let begun = Instant::now();
    let refused = failure(get(&cluster, outside, id, true).await);
    assert_eq!((refused.kind, &*refused.reason), (Kind::Unavailable, reason::NO_REPLICA), "{refused:?}");
    assert!(begun.elapsed() < 2 * CALL_DEFAULT, "within its deadline");
    let client = z4_client::Client::builder([cluster.machines[outside].service.as_str()]);
    let client = client.timeout(Duration::from_secs(2)).build().expect("address");
    let error: Error = client.get_stale(id).await.expect_err("nobody has it");
    assert!(error.is_retryable(), "{error}");
    cluster.stop();
}
