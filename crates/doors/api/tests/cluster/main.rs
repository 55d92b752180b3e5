//! Three real hosts and their doors: any of them serves any call, and clients ride out the death of a leader.

mod events;
mod machines;
mod stale;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use z4_client::{Lease, ListTasks, NewTask, Task, TaskId, Verdict, Verified};
use z4_types::{Kind, QueueName, ShardId};

use machines::{Cluster, NAMES, QUEUES, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_host_serves_any_call() {
    let cluster = Cluster::start().await;
    let mut ids: Vec<(&str, TaskId)> = Vec::new();
    for at in 0..NAMES.len() {
        // A new client each time: it knows no leader yet.
        for queue in QUEUES {
            let id = cluster.client(at).create(queue, NewTask::new(format!("{at}"))).await;
            ids.push((queue, id.expect("created")));
        }
    }
    for at in 0..NAMES.len() {
        let client = cluster.client(at);
        for (queue, id) in &ids {
            assert_eq!(client.get(*id).await.expect("is there").queue, *queue);
        }
        let names: Vec<_> = client.list_queues(0, "").await.expect("lists").items;
        let counted: Vec<_> = names.iter().map(|queue| (queue.name.as_str(), queue.waiting)).collect();
        assert_eq!(counted, [("fax", 3), ("mail", 3), ("post", 3), ("sms", 3)], "shards of all leaders");
        let wish = ListTasks { queue: "mail".into(), ..Default::default() };
        assert_eq!(client.list(wish).await.expect("lists").items.len(), 3);
    }
    for at in 0..NAMES.len() {
        let client = cluster.client(at);
        let mut words = Vec::new();
        for queue in QUEUES {
            let wish = Lease { wait: Duration::from_secs(20), ..Lease::one(queue) };
            let leased = client.lease(wish).await.expect("leases");
            words.extend(leased.iter().map(|task: &Task| task.settle(Verdict::Ack)));
        }
        assert_eq!(words.len(), QUEUES.len());
        let settled = cluster.client(at).settle(&words).await.expect("of all shards at once");
        assert!(settled.iter().all(Result::is_ok), "{settled:?}");
    }

    let client = cluster.client(0);
    let verified = client.verify_shards(&[]).await.expect("answers");
    assert_eq!(verified.len(), 3);
    for verdict in &verified {
        assert_eq!((verdict.result(), verdict.replicas.len()), (Verified::Match, 3), "{verdict:?}");
    }
    let (leader, shard) = (cluster.leader("mail").await, {
        let queue = QueueName::new("mail").expect("a name");
        cluster.machines[0].host.handle().shard_of(&queue)
    });
    let to = (leader + 1) % NAMES.len();
    let other = cluster.client((leader + 2) % NAMES.len());
    other.transfer_leader(shard.0, NAMES[to]).await.expect("hands over, asked of a third host");
    assert_eq!(cluster.leader("mail").await, to);
    let unknown = other.transfer_leader(shard.0, "nobody").await.expect_err("refused");
    assert_eq!(unknown.kind(), Kind::NotFound, "{unknown}");
    let unknown = other.remove_peer("nobody").await.expect_err("refused");
    assert_eq!(unknown.kind(), Kind::NotFound, "{unknown}");
    let members = other.info().await.expect("answers").members;
    let leader = members.iter().find(|member| member.leader).expect("the registry is led");
    let member = other.add_peer(&leader.id, "127.0.0.1:1").await.expect_err("refused");
    assert_eq!((member.kind(), member.reason()), (Kind::Invalid, "ALREADY_MEMBER"), "{member}");
    let unknown = other.verify_shards(&[9]).await.expect_err("refused");
    assert_eq!(unknown.kind(), Kind::NotFound, "{unknown}");
    assert!(cluster.machines[0].host.handle().registry().shard(ShardId(9)).is_none());
    cluster.stop();
}

/// P1, P5, P6 as a user sees them: every push is answered and made one task, each is handled and acked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_a_producer_and_a_consumer_lose_and_double_nothing_when_the_leader_dies() {
    const TASKS: usize = 2_000;
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader("mail").await;
    // One address is enough, also that of the host that dies: the others are learned from it.
    let (first, second) = (cluster.client(leader), cluster.client((leader + 1) % NAMES.len()));
    let producer = first.producer("mail").frame_tasks(10).build().expect("producer");
    let seen: Arc<Mutex<BTreeMap<Vec<u8>, BTreeSet<TaskId>>>> = Arc::default();
    let handled = Arc::clone(&seen);
    let handler = move |task: Task| {
        let handled = Arc::clone(&handled);
        async move {
            let mut handled = handled.lock().expect("no panic");
            handled.entry(task.payload.to_vec()).or_default().insert(task.id);
            Ok(())
        }
    };
    let consumer = second.consumer("mail").lease(Duration::from_secs(5)).run(handler).expect("consumer");
    let mut receipts = Vec::new();
    for number in 0..TASKS {
        receipts.push(producer.enqueue(NewTask::new(number.to_string())).await.expect("room"));
        if number == TASKS / 2 {
            // Some are done, so that there is something to lose.
            until("the consumer has begun", || async {
                (!seen.lock().expect("no panic").is_empty()).then_some(())
            })
            .await;
            cluster.kill(leader);
        }
    }
    let mut ids = BTreeSet::new();
    for receipt in receipts {
        ids.insert(receipt.await.expect("an election is no failure"));
    }
    assert_eq!(ids.len(), TASKS, "one task each");
    let survivor = cluster.client((leader + 1) % NAMES.len());
    until("all is handled and acked", || async {
        let queue = survivor.get_queue("mail").await.ok()?;
        (queue.waiting + queue.leased + queue.dead == 0).then_some(())
    })
    .await;
    consumer.drain().await.expect("drains");
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.len(), TASKS, "none is lost");
    for (payload, tasks) in seen.iter() {
        assert_eq!(tasks.len(), 1, "{payload:?} was made once");
    }
    drop(seen);
    cluster.stop();
}
