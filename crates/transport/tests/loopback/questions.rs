//! Questions and answers outside of membership, with their deadlines.

use std::time::Duration;

use bytes::Bytes;
use z4_transport::{Error, Reason, Refusal, ask};
use z4_types::{ClusterId, Kind};

use crate::common::{PATIENCE, config, host, start, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_a_cluster_asks_and_learns_who_answers() {
    let b = start("b").await;
    let mut newcomer = config("n");
    newcomer.identity.cluster = ClusterId(0);
    let answer = ask(&newcomer, &b.address, None, "who are you".into(), PATIENCE).await.expect("b answers");
    assert_eq!(&answer.body[..], b"n: who are you");
    assert!(answer.took > Duration::ZERO && answer.took < PATIENCE, "{:?}", answer.took);
    assert_eq!((answer.from.host, answer.from.cluster), (host("b"), ClusterId(1)));
    let long =
        ask(&newcomer, &b.address, Some(&host("b")), "long".into(), PATIENCE).await.expect("b answers");
    assert_eq!(long.body, Bytes::from(vec![7; 3 << 20]));
    until("both are counted", || b.transport.status().listening.asks == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_cannot_be_answered_says_why_and_whether_it_was_sent() {
    let (a, b) = (start("a").await, start("b").await);
    let brief = Duration::from_millis(50);
    let error = a.transport.ask(&b.address, None, "never".into(), brief).await.expect_err("no answer");
    // On a busy machine the deadline may pass before the handshake is done.
    assert!(matches!(error, Error::Unanswered(_) | Error::Deadline(50)), "{error}");
    let error = a.transport.ask(&b.address, Some(&host("c")), "who".into(), PATIENCE).await;
    let error = error.expect_err("b is not c");
    assert_eq!(error.refusal().map(|refusal| refusal.reason), Some(Reason::NotForYou));
    let large = Bytes::from(vec![0; (4 << 20) + 1]);
    let error = a.transport.ask(&b.address, None, large, PATIENCE).await.expect_err("too large");
    assert_eq!(error.kind(), Kind::Invalid);
    let error = a.transport.ask("no-such-host.invalid:1", None, "who".into(), PATIENCE).await;
    assert!(error.expect_err("no such name").to_string().contains("no-such-host.invalid:1"));
    let refusal = Refusal::new(Reason::UnknownHost, "host a was never added");
    b.recorder.refuse.lock().expect("not poisoned").insert(host("a"), refusal.clone());
    let error = a.transport.ask(&b.address, None, "who".into(), PATIENCE).await.expect_err("refused");
    assert_eq!(error.refusal(), Some(&refusal));
    let address = b.address.clone();
    b.transport.shutdown().await;
    let error = a.transport.ask(&address, None, "who".into(), PATIENCE).await.expect_err("nobody there");
    assert_eq!(error.kind(), Kind::Unavailable);
}
