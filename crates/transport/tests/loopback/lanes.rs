//! Frames arrive in order, urgent ones pass bulk, and lanes come back after everything that ends a connection.

use z4_env::{Frame, Net};
use z4_transport::{Arrival, Config, Lane, Sizes};

use crate::common::{Node, config, host, start, start_at, until};

async fn pair() -> (Node, Node) {
    let (a, b) = (start("a").await, start("b").await);
    a.dial(&[("b", &b.address)]);
    (a, b)
}

/// A body that names its number and varies in length from nothing to far more than a buffer.
fn numbered(number: u32) -> Vec<u8> {
    let len = [0, 1, 100, 5_000, 40_000, 300_000][number as usize % 6];
    [&number.to_le_bytes()[..], &vec![number as u8; len]].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_arrive_whole_and_in_order_on_each_lane() {
    let (a, mut b) = pair().await;
    for number in 0..600 {
        a.send("b", number % 3 == 0, &numbered(number)).await;
    }
    let mut next = [0, 1];
    for _ in 0..600 {
        let (from, Arrival { lane, body, .. }) = b.next().await;
        assert_eq!(from, host("a"));
        let next = &mut next[usize::from(lane == Lane::Bulk)];
        assert_eq!(body, numbered(*next), "{lane} frame {next}");
        *next += if lane == Lane::Bulk && *next % 3 == 1 {
            1
        } else if lane == Lane::Bulk {
            2
        } else {
            3
        };
    }
    until("all is counted as sent", || {
        let status = a.status_of("b");
        status.urgent.sent.frames + status.bulk.sent.frames == 600
    })
    .await;
    let (status, incoming) = (a.status_of("b"), b.status_of("a"));
    assert_eq!(status.urgent.sent, incoming.from_urgent.received);
    assert_eq!(status.bulk.sent, incoming.from_bulk.received);
    assert_eq!(status.bulk.connects, 1);
    assert!(incoming.last_contact_ms.is_some() && status.last_contact_ms.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_frame_passes_a_hundred_megabytes_of_bulk() {
    let (a, mut b) = pair().await;
    let mut port = a.transport.port();
    let sender = std::thread::spawn(move || {
        let mut sent = 0;
        while sent < 200 {
            if port.send(&host("b"), Frame { urgent: false, body: vec![1; 512 << 10] }) {
                sent += 1;
            } else {
                std::thread::yield_now();
            }
        }
    });
    // The handler keeps what arrives, so bulk stops at its room: it cannot all be there before the urgent frame.
    let mut kept = Vec::new();
    while b.status_of("a").from_bulk.held_bytes < 60 << 20 {
        kept.push(b.next().await);
    }
    a.send("b", true, b"urgent").await;
    loop {
        let (from, arrival) = b.next().await;
        if arrival.lane == Lane::Urgent {
            assert_eq!(&arrival.body[..], b"urgent");
            break;
        }
        kept.push((from, arrival));
    }
    assert!(kept.len() < 130, "bulk stopped at its room of 64 MiB, and {} frames came", kept.len());
    let mut arrived = kept.len();
    drop(kept);
    while arrived < 200 {
        drop(b.next().await);
        arrived += 1;
    }
    sender.join().expect("every frame was taken in the end");
    until("the room is free again", || b.status_of("a").from_bulk.held_bytes == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_keeps_everything_makes_the_senders_lane_full() {
    let sizes = Sizes {
        bulk_room_bytes: 1 << 20,
        bulk_queue_bytes: 1 << 20,
        bulk_frame_bytes: 64 << 10,
        ..Sizes::default()
    };
    let small = |name| Config { sizes, ..config(name) };
    let (a, mut b) = (start_at(small("a"), "127.0.0.1:0").await, start_at(small("b"), "127.0.0.1:0").await);
    a.dial(&[("b", &b.address)]);
    a.connected("b").await;
    let body = vec![0; 60 << 10];
    // What the two sockets hold is the system's affair; once they are full the queue fills and stays full.
    until("the lane is full", || {
        while a.transport.send(&host("b"), Frame { urgent: false, body: body.clone() }) {}
        b.status_of("a").from_bulk.held_bytes > 900 << 10
    })
    .await;
    assert!(a.status_of("b").bulk.dropped.frames > 0);
    assert!(a.status_of("b").bulk.waiting.bytes <= 1 << 20);
    assert!(b.status_of("a").from_bulk.held_bytes <= 1 << 20);
    drop(b.next().await);
    let before = b.status_of("a").from_bulk.received.frames;
    drop(b.next().await);
    until("room makes the reader go on", || b.status_of("a").from_bulk.received.frames > before).await;
    assert_eq!(a.status_of("b").bulk.connects, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_restarts_on_its_port_is_found_again() {
    let (a, mut b) = pair().await;
    a.send("b", true, b"before").await;
    assert_eq!(b.body().await, b"before");
    let address = b.address.clone();
    b.transport.shutdown().await;
    until("a has noticed", || !a.status_of("b").urgent.connected).await;
    let mut b = start_at(config("b"), &address).await;
    a.connected("b").await;
    a.send("b", true, b"after").await;
    assert_eq!(b.body().await, b"after");
    let status = a.status_of("b");
    assert!(status.urgent.connects == 2 && status.urgent.failures > 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_address_is_dialled_and_the_old_connection_dropped() {
    let (a, mut b) = pair().await;
    a.send("b", false, b"here").await;
    assert_eq!(b.body().await, b"here");
    let mut elsewhere = start("b").await;
    a.dial(&[("b", &elsewhere.address)]);
    until("the old lanes end", || !b.status_of("a").from_bulk.connected).await;
    a.connected("b").await;
    a.send("b", false, b"there").await;
    assert_eq!(elsewhere.body().await, b"there");
    assert_eq!(a.status_of("b").address, elsewhere.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_a_listener_costs_a_bounded_queue_and_no_time() {
    let gone = start("b").await;
    let address = gone.address.clone();
    gone.transport.shutdown().await;
    let a = start("a").await;
    a.dial(&[("b", &address)]);
    let taken = (0..100_000)
        .filter(|_| a.transport.send(&host("b"), Frame { urgent: true, body: vec![0; 1_000] }))
        .count();
    let status = a.status_of("b");
    assert!(taken < 100_000 && status.urgent.dropped.frames > 0, "{taken} taken, {status:?}");
    assert!(status.urgent.waiting.frames <= 8_192 && status.urgent.waiting.bytes <= 8 << 20);
    a.fails("b", "cannot be reached").await;
    until("frames that waited for two attempts are dropped", || a.status_of("b").urgent.waiting.frames == 0)
        .await;
    assert!(!a.transport.send(&host("nobody"), Frame { urgent: true, body: Vec::new() }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_too_large_for_its_lane_is_dropped_and_the_lane_lives() {
    let (a, mut b) = pair().await;
    assert!(!a.transport.send(&host("b"), Frame { urgent: true, body: vec![0; (1 << 20) + 1] }));
    a.send("b", true, &vec![7; 1 << 20]).await;
    assert_eq!(b.body().await.len(), 1 << 20);
    assert_eq!(a.status_of("b").urgent.dropped.frames, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_sends_what_waits_and_says_goodbye() {
    let (a, mut b) = pair().await;
    a.connected("b").await;
    b.dial(&[("a", &a.address)]);
    b.connected("a").await;
    (0..1_000u32).for_each(|number| {
        assert!(a.transport.send(&host("b"), Frame { urgent: false, body: number.to_le_bytes().to_vec() }));
    });
    a.transport.shutdown().await;
    for number in 0..1_000u32 {
        assert_eq!(b.body().await, number.to_le_bytes());
    }
    until("its incoming lanes are closed", || !b.status_of("a").from_bulk.connected).await;
    until("the goodbye is kept until the next failure", || b.status_of("a").urgent.failures > 0).await;
    assert!(!b.status_of("a").urgent.connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_host_loses_its_lanes_in_both_directions() {
    let (a, b) = pair().await;
    b.dial(&[("a", &a.address)]);
    a.connected("b").await;
    b.connected("a").await;
    a.dial(&[]);
    until("what a dialled is closed", || !b.status_of("a").from_urgent.connected).await;
    assert!(!a.transport.send(&host("b"), Frame { urgent: true, body: Vec::new() }));
    until("what b dialled was closed, too", || b.status_of("a").urgent.failures > 0).await;
    until("b was told", || {
        b.recorder
            .refused
            .lock()
            .expect("not poisoned")
            .iter()
            .any(|(by, refusal)| *by == host("a") && refusal.reason == z4_transport::Reason::Removed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_transport_frees_its_port_and_its_lanes() {
    let (a, b) = pair().await;
    a.connected("b").await;
    let address = b.address.clone();
    drop(b);
    until("a has noticed", || !a.status_of("b").urgent.connected).await;
    let mut bound = None;
    let mut attempts = tokio::time::interval(std::time::Duration::from_millis(1));
    while bound.is_none() {
        attempts.tick().await;
        bound = tokio::net::TcpListener::bind(&address).await.ok();
    }
}
