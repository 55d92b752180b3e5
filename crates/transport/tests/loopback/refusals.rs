//! Who is not talked to, and that both sides say why.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use z4_transport::{Config, Reason, Refusal, Timing};
use z4_types::ClusterId;

use crate::common::{Node, PATIENCE, config, host, start, start_at, until};

async fn told(node: &Node, by: &str, reason: Reason) {
    until("the host was told that it is refused", || {
        let refused = node.recorder.refused.lock().expect("not poisoned");
        refused.iter().any(|(who, refusal)| *who == host(by) && refusal.reason == reason)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_of_another_cluster_is_refused_with_the_reason_on_both_sides() {
    let mut other = config("b");
    (other.identity.cluster, other.identity.cluster_name) = (ClusterId(2), "other".into());
    let (a, b) = (start("a").await, start_at(other, "127.0.0.1:0").await);
    a.dial(&[("b", &b.address)]);
    a.fails("b", "refused by the other host: wrong cluster: host b belongs to cluster other").await;
    told(&a, "b", Reason::WrongCluster).await;
    until("b has counted it", || b.transport.status().listening.refused > 0).await;
    assert!(!b.status_of("a").from_urgent.connected && b.transport.status().listening.lanes == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_has_changed_hands_is_named() {
    let (a, c) = (start("a").await, start("c").await);
    a.dial(&[("b", &c.address)]);
    a.fails("b", "expected host b, found host c").await;
    told(&a, "b", Reason::NotForYou).await;
    // Its own name on the other side: two hosts were given one.
    a.dial(&[("x", &a.address)]);
    a.fails("x", "expected host x, found host a").await;
    let double = start("c").await;
    double.dial(&[("c", &c.address)]);
    assert!(double.transport.status().peers.is_empty(), "nobody dials himself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_the_handler_refuses_is_told_and_admitted_once_it_changes_its_mind() {
    let (a, mut b) = (start("a").await, start("b").await);
    let refusal = Refusal::new(Reason::WrongInstance, "host a has another disk; admit it as a replacement");
    b.recorder.refuse.lock().expect("not poisoned").insert(host("a"), refusal);
    a.dial(&[("b", &b.address)]);
    a.fails("b", "wrong instance: host a has another disk").await;
    b.recorder.refuse.lock().expect("not poisoned").clear();
    a.connected("b").await;
    a.send("b", true, b"in").await;
    assert_eq!(b.body().await, b"in");
    // And the other way: a host that holds lanes is refused from now on.
    let refusal = Refusal::new(Reason::Removed, "host a was removed");
    b.recorder.refuse.lock().expect("not poisoned").insert(host("a"), refusal);
    b.dial(&[]);
    until("its lanes are closed", || !b.status_of("a").from_urgent.connected).await;
    told(&a, "b", Reason::Removed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialer_refuses_who_answers_and_says_so() {
    let (a, b) = (start("a").await, start("b").await);
    let refusal = Refusal::new(Reason::WrongInstance, "host b has another disk");
    a.recorder.refuse.lock().expect("not poisoned").insert(host("b"), refusal);
    a.dial(&[("b", &b.address)]);
    a.fails("b", "refused by this host: wrong instance: host b has another disk").await;
    until("b had a lane and lost it", || {
        b.transport.status().listening.lanes > 0 && !b.status_of("a").from_urgent.connected
    })
    .await;
    assert_eq!(a.status_of("b").urgent.connects, 0);
}

/// Answers every connection with `says` and keeps it open.
async fn answering(says: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let address = listener.local_addr().expect("a bound listener").to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            if socket.write_all(says).await.is_ok() {
                open.push(socket);
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_or_http_port_is_recognised_and_the_remedy_named() {
    let a = start("a").await;
    let settings = answering(&[0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]).await;
    a.dial(&[("b", &settings)]);
    a.fails("b", "this is a gRPC or HTTP port; use the peer port (6356 by default)").await;
    let http = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    a.dial(&[("c", &http)]);
    a.fails("c", "use the peer port (6356 by default)").await;
    let error = a.transport.ask(&http, None, "who".into(), PATIENCE).await.expect_err("HTTP answers");
    assert!(error.to_string().contains("use the peer port"), "{error}");
    assert_eq!(error.kind(), z4_types::Kind::Invalid);
    let ssh = answering(b"SSH-2.0-OpenSSH_9.6\r\n").await;
    a.dial(&[("d", &ssh)]);
    a.fails("d", "something answers that is not z4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_or_http_client_is_closed_and_counted() {
    let b = start("b").await;
    for (number, says) in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n"].iter().enumerate()
    {
        let mut socket = TcpStream::connect(&b.address).await.expect("b listens");
        socket.write_all(says).await.expect("a fresh connection takes a line");
        let closed = timeout(PATIENCE, socket.read(&mut [0; 16])).await.expect("closed in time");
        // What was not read makes the close a reset.
        assert!(matches!(closed, Ok(0) | Err(_)));
        until("it is counted", || b.transport.status().listening.foreign == number as u64 + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_has_an_end_on_both_sides() {
    let hasty = |name| {
        let base = config(name);
        Config { timing: Timing { handshake: Duration::from_millis(50), ..base.timing }, ..base }
    };
    let (a, b) = (start_at(hasty("a"), "127.0.0.1:0").await, start_at(hasty("b"), "127.0.0.1:0").await);
    let mute = answering(b"").await;
    a.dial(&[("c", &mute)]);
    a.fails("c", "nothing was heard for 50 ms").await;
    let mut socket = TcpStream::connect(&b.address).await.expect("b listens");
    socket.write_all(b"z4pe").await.expect("a fresh connection takes four bytes");
    let closed = timeout(PATIENCE, socket.read(&mut [0; 16])).await.expect("closed in time");
    assert!(matches!(closed, Ok(0) | Err(_)));
    until("it is counted", || b.transport.status().listening.silent == 1).await;
}
