//! Events over the death of a leader: a watch goes on, loses nothing and repeats nothing.

use std::time::Duration;

use z4_client::{Event, EventStream, EventType, EventsFrom, NewTask, QueuePatch, WatchEvents};

use super::machines::{Cluster, NAMES};

const TASKS: u64 = 300;

async fn follow(watch: &mut EventStream, seen: &mut Vec<Event>, until: usize) {
    while seen.len() < until {
        seen.extend(watch.next().await.expect("an election is no end").events);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_loses_and_repeats_nothing_when_the_leader_dies() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader("mail").await;
    let survivor = cluster.client((leader + 1) % NAMES.len());
    survivor.create_queue("mail", QueuePatch::new().events_kept(10_000)).await.expect("made");
    let wish = WatchEvents {
        from: EventsFrom::Earliest,
        types: vec![EventType::Created],
        patience: Duration::from_secs(100),
        ..WatchEvents::new("mail")
    };
    // One at the host that dies, which must find another one; one at a host that passes its calls on.
    let (mut dying, mut passed_on) = (cluster.client(leader).watch(wish.clone()), survivor.watch(wish));
    let (mut at_dying, mut at_other) = (Vec::new(), Vec::new());
    for number in 0..TASKS / 2 {
        survivor.create("mail", NewTask::new(number.to_string())).await.expect("created");
    }
    follow(&mut dying, &mut at_dying, 10).await;
    follow(&mut passed_on, &mut at_other, 10).await;
    cluster.kill(leader);
    let third = cluster.client((leader + 2) % NAMES.len());
    for number in TASKS / 2..TASKS {
        third.create("mail", NewTask::new(number.to_string())).await.expect("created");
    }
    follow(&mut dying, &mut at_dying, TASKS as usize).await;
    follow(&mut passed_on, &mut at_other, TASKS as usize).await;
    let expected: Vec<u64> = (1..=TASKS).collect();
    for seen in [&at_dying, &at_other] {
        assert_eq!(seen.iter().map(|event| event.sequence).collect::<Vec<_>>(), expected);
    }
    assert_eq!(at_dying, at_other, "tokens too");
    cluster.stop();
}
