//! What is too large, and too much at once.

use super::*;

/// Bytes of the largest message, as clients read it.
const LIMIT: &str = "16777216";

fn mib(count: usize) -> Vec<v1::NewTask> {
    vec![v1::NewTask { payload: vec![7; 1 << 20].into(), ..Default::default() }; count]
}

fn too_large(status: &Status) {
    let failure = Failure::from_status(status);
    assert_eq!((status.code(), &*failure.reason), (Code::InvalidArgument, reason::BATCH_TOO_LARGE));
    assert!(status.message().contains(LIMIT), "names the limit: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_limit_is_refused_by_name_in_calls_and_streams() {
    let z4 = Served::start().await;
    let huge = v1::BatchCreateTasksRequest { queue: "mail".into(), tasks: mib(17), ..Default::default() };
    too_large(&z4.tasks().batch_create_tasks(huge).await.expect_err("too large"));

    let batch = |seq, tasks| v1::PushRequest { seq, queue: "mail".into(), tasks, ..Default::default() };
    let batches =
        tokio_stream::iter([batch(1, vec![task("a")]), batch(2, mib(17)), batch(3, vec![task("c")])]);
    let mut replies = z4.tasks().push(batches).await.expect("opens").into_inner();
    let first = replies.message().await.expect("answered").expect("a reply");
    assert_eq!((first.seq, first.ids.len()), (1, 1), "what was read is answered first");
    too_large(&replies.message().await.expect_err("the stream ends with why"));

    let mut puller = Puller::open(&z4, "mail").await;
    let nack = v1::Nack { reason: "x".repeat(17 << 20), ..Default::default() };
    let settlements = vec![v1::Settlement { verdict: Some(Verdict::Nack(nack)), ..ack("any", 1) }];
    puller.say(pull_request::Message::Settle(pull_request::Settle { seq: 1, settlements })).await;
    too_large(&puller.replies.message().await.expect_err("the stream ends with why"));
    assert_eq!(z4.number("message_bytes").await, 0, "nothing is held for what was refused");
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_large_batches_is_taken_or_refused_with_a_delay_and_holds_no_more_than_it_may() {
    const CALLS: usize = 64;
    const HELD_MAX: u64 = 48 << 20;
    let z4 = Served::start().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        let mut tasks = z4.tasks();
        calls.spawn(async move {
            let request =
                v1::BatchCreateTasksRequest { queue: "mail".into(), tasks: mib(7), ..Default::default() };
            let mut request = tonic::Request::new(request);
            request.set_timeout(Duration::from_secs(60));
            tasks.batch_create_tasks(request).await
        });
    }
    let mut taken = 0;
    while !calls.is_empty() {
        tokio::select! {
            answer = calls.join_next() => match answer.expect("one is left").expect("no panic") {
                Ok(answer) => taken += answer.into_inner().ids.len() as u64,
                Err(status) => {
                    let failure = Failure::from_status(&status);
                    assert_eq!((status.code(), &*failure.reason), (Code::ResourceExhausted, reason::OVERLOADED), "{status:?}");
                    assert!(failure.retry_after.is_some(), "{status:?}");
                }
            },
            held = z4.number("message_bytes") => assert!(held <= HELD_MAX, "{held}"),
        }
    }
    assert!(taken > 0, "a flood costs refusals, not progress");
    z4.until_calls(0).await;
    assert_eq!(z4.number("message_bytes").await, 0);
    z4.create("mail", task("after")).await.expect("is taken again");
    let queue = z4.tasks().get_queue(v1::GetQueueRequest { queue: "mail".into() }).await.expect("known");
    assert_eq!(queue.into_inner().queue.expect("a queue").waiting, taken + 1, "what was taken is there");
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_fit_a_client_that_knows_nothing_of_z4() {
    let z4 = Served::start().await;
    // gRPC's own limit of 4 MiB; and as much metadata as payload.
    let mut stock = TasksClient::new(z4.channel.clone());
    let labels = (0..4).map(|n| (format!("k{n}"), "v".repeat(4_000))).collect();
    let labelled = v1::NewTask { metadata: labels, ..task("small") };
    let mut request =
        v1::BatchCreateTasksRequest { queue: "mail".into(), tasks: mib(6), ..Default::default() };
    z4.tasks().batch_create_tasks(request.clone()).await.expect("created");
    request.tasks = vec![labelled; 400];
    request.queue = "labels".into();
    z4.tasks().batch_create_tasks(request).await.expect("created");

    for (queue, count) in [("mail", 6), ("labels", 400)] {
        let (mut listed, mut page_token) = (0, String::new());
        loop {
            let request = v1::ListTasksRequest {
                queue: queue.into(),
                page_size: 1_000,
                page_token,
                ..Default::default()
            };
            let page = stock.list_tasks(request).await.expect("fits").into_inner();
            assert!(!page.tasks.is_empty());
            listed += page.tasks.len();
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, count);
        let mut leased = 0;
        while leased < count {
            let wait = Some(PbDuration { seconds: 10, nanos: 0 });
            let request =
                v1::LeaseTasksRequest { queue: queue.into(), max_tasks: 1_000, wait, ..Default::default() };
            let tasks = stock.lease_tasks(request).await.expect("fits").into_inner().tasks;
            assert!(!tasks.is_empty(), "what did not fit was given back");
            leased += tasks.len();
        }
        assert_eq!(leased, count);
    }
    z4.stop().await;
}
