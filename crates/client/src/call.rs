//! One unary call: deadline, retries, and the move to another host.
//!
//! Each attempt gets what is left of the deadline. A failure is retried if trying again can help and there is time
//! for the wait; otherwise the caller gets it at once, not at the deadline. A host that does not lead and says who does
//! is believed: the next attempt goes there at once.
//!
//! # Invariants
//! - An error says "nothing was done" only if no attempt may have done it: once one is in doubt, the call is.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use z4_proto::reason;
use z4_types::Kind;

use crate::Error;
use crate::backoff::Backoff;
use crate::endpoints::{About, Endpoints};

/// The server gives up this much later than we do, so that our message, which names the host, is the one seen.
const SERVER_GRACE: Duration = Duration::from_millis(100);

/// No attempt begins with less time than this. It would end at the deadline before it is answered, and turn a clear
/// "nothing was done" into "it may have been done".
pub(crate) const ATTEMPT_MIN: Duration = Duration::from_millis(10);

/// Hosts that may send a call on to the leader without a wait in between. More, and they do not agree yet.
pub(crate) const HOPS_MAX: u32 = 2;

/// Longest span of time anything waits: builders cut longer ones. Nobody means more, and clocks cannot add everything.
pub(crate) const SPAN_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Which failures may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// All that are retryable: reads, and creates with a request id.
    Always,
    /// Only where nothing was done: a second try could answer differently, such as "not found" after a cancel whose
    /// answer was lost.
    IfNotDone,
}

impl Again {
    fn allows(self, error: &Error) -> bool {
        match error.kind() {
            Kind::Unavailable | Kind::Overloaded => true,
            Kind::OutcomeUnknown => self == Self::Always,
            _ => false,
        }
    }
}

/// How a client's calls behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Every call ends within this time.
    pub(crate) timeout: Duration,
    /// Give up once every address refused the connection, instead of trying until the deadline.
    pub(crate) fail_fast: bool,
}

/// Sends `request` until it is answered, cannot be, or its time is up.
pub(crate) async fn call<Req, Rep, Send, Answer>(
    endpoints: &Endpoints,
    rules: Rules,
    about: About<'_>,
    again: Again,
    request: Req,
    send: Send,
) -> Result<Rep, Error>
where
    Req: Clone,
    Send: Fn(Channel, Request<Req>) -> Answer,
    Answer: Future<Output = Result<Response<Rep>, Status>>,
{
    let until = Instant::now() + rules.timeout;
    let mut backoff = Backoff::default();
    let (mut refused, mut hops) = (0, 0);
    let mut doubt = None;
    let mut told: Option<Error> = None;
    loop {
        let (address, channel) = endpoints.to(about);
        let mut attempt = Request::new(request.clone());
        attempt.set_timeout(until.saturating_duration_since(Instant::now()) + SERVER_GRACE);
        let error = match timeout_at(until, send(channel, attempt)).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => named(status.into(), &address),
            Err(_) => late(deadline(&address, rules.timeout), told.as_ref()),
        };
        let led = learn(endpoints, about, &address, &error);
        if !again.allows(&error) {
            return Err(error);
        }
        let error = match &doubt {
            Some(earlier) => in_doubt(earlier, &error),
            None => error,
        };
        if error.kind() == Kind::OutcomeUnknown && doubt.is_none() {
            doubt = Some(error.clone());
        }
        if led && hops < HOPS_MAX {
            hops += 1;
            continue;
        }
        if error.reason() == reason::UNREACHABLE {
            refused += 1;
            if rules.fail_fast && refused >= endpoints.len() {
                return Err(error);
            }
        }
        let wait = backoff.next(endpoints.asked_to_wait(&error));
        told = Some(error.clone());
        if Instant::now() + wait + ATTEMPT_MIN >= until {
            return Err(error);
        }
        sleep(wait).await;
        // Again, because a sleep may last longer than it was asked to.
        if Instant::now() + ATTEMPT_MIN >= until {
            return Err(error);
        }
    }
}

/// Remembers what a failure says of the host that was asked. Returns whether another one is known to lead.
pub(crate) fn learn(endpoints: &Endpoints, about: About<'_>, address: &str, error: &Error) -> bool {
    if let Some(leader) = error.leader() {
        endpoints.forget(about);
        return leader != address && endpoints.leads(about, leader);
    }
    if error.blames_host() {
        endpoints.failed(address);
    } else if error.kind() == Kind::Unavailable {
        endpoints.forget(about);
    }
    false
}

/// Returns the error of a call that `address` did not answer in time.
pub(crate) fn deadline(address: &str, timeout: Duration) -> Error {
    Error::new(
        Kind::OutcomeUnknown,
        reason::DEADLINE_EXCEEDED,
        format!(
            "{address} did not answer within {timeout:?}; it may have done it: retry with the same request id"
        ),
    )
}

/// Returns `error` of an attempt that was not answered in time, with what the attempt before it was `told`: that tells
/// the caller more than the silence does.
fn late(error: Error, told: Option<&Error>) -> Error {
    match told {
        Some(told) if told.kind() != Kind::OutcomeUnknown => {
            let what = format!("{}; the attempt before was told: {}", error.message(), told.message());
            Error::new(error.kind(), reason::DEADLINE_EXCEEDED, what)
        }
        _ => error,
    }
}

/// Returns `error` of an attempt behind one that may have done it.
pub(crate) fn in_doubt(earlier: &Error, error: &Error) -> Error {
    if error.kind() == Kind::OutcomeUnknown {
        return error.clone();
    }
    let what =
        format!("an earlier attempt may have done it: {}; then: {}", earlier.message(), error.message());
    Error::new(Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN, what).after(error.retry_after())
}

/// A connection's error says what happened, but not where.
pub(crate) fn named(error: Error, address: &str) -> Error {
    if error.reason() == reason::UNREACHABLE {
        return Error::new(
            Kind::Unavailable,
            reason::UNREACHABLE,
            format!("cannot reach {address}: {}; is the server running there?", error.message()),
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, dead_address};
    use crate::{Client, NewTask};
    use z4_proto::status::Failure;
    use z4_proto::v1;
    use z4_types::TaskId;

    #[tokio::test]
    async fn p6_a_create_is_tried_again_under_the_same_request_id() {
        let mut fake = Fake::start().await;
        let client = Client::connect([fake.address.as_str()]).expect("address");
        let create = tokio::spawn(async move { client.create("q", NewTask::new("x")).await });
        let first = fake.creates.recv().await.expect("the server runs");
        let id = |call: &crate::fake::Create| call.request.task.clone().unwrap_or_default().request_id;
        let request_id = id(&first);
        assert_eq!(request_id.len(), 32);
        let failure = Failure::new(Kind::Unavailable, reason::NO_LEADER, "election");
        first.answer(Err(failure.with_retry_after(Duration::from_millis(1)).to_status()));
        let second = fake.creates.recv().await.expect("the server runs");
        assert_eq!(id(&second), request_id);
        second.answer(Ok(v1::CreateTaskResponse { id: TaskId(7).to_string(), ..Default::default() }));
        assert_eq!(create.await.expect("no panic"), Ok(TaskId(7)));
    }

    /// A host that does not lead says who does, and a host that forwarded says who answered.
    #[tokio::test]
    async fn calls_follow_the_leader_at_once_and_stay_with_it() {
        let (mut follower, mut leader) = (Fake::start().await, Fake::start().await);
        let client = Client::connect([follower.address.as_str()]).expect("address");
        let create = |queue: &'static str| {
            let client = client.clone();
            tokio::spawn(async move { client.create(queue, NewTask::new("x")).await })
        };
        let done = || v1::CreateTaskResponse { id: TaskId(7).to_string(), ..Default::default() };

        let first = create("mail");
        let refusal = Failure::new(Kind::Unavailable, reason::NOT_LEADER, "not me")
            .with_leader("b", leader.address.as_str())
            // It would not be asked before the test's end, were it not for the leader's name.
            .with_retry_after(Duration::from_secs(3_600));
        let asked = follower.creates.recv().await.expect("the server runs");
        let id = asked.request.task.clone().unwrap_or_default().request_id;
        asked.answer(Err(refusal.to_status()));
        let asked = leader.creates.recv().await.expect("the server runs");
        assert_eq!(asked.request.task.clone().unwrap_or_default().request_id, id, "the same call");
        asked.answer(Ok(done()));
        assert_eq!(first.await.expect("no panic"), Ok(TaskId(7)));
        let second = create("mail");
        leader.creates.recv().await.expect("remembered").answer(Ok(done()));
        assert_eq!(second.await.expect("no panic"), Ok(TaskId(7)));

        let other = create("sms");
        let forwarded = v1::CreateTaskResponse { forwarded_to: leader.address.clone(), ..done() };
        follower.creates.recv().await.expect("its leader is not known").answer(Ok(forwarded));
        assert_eq!(other.await.expect("no panic"), Ok(TaskId(7)));
        let again = create("sms");
        leader.creates.recv().await.expect("named by the reply").answer(Ok(done()));
        assert_eq!(again.await.expect("no panic"), Ok(TaskId(7)));
    }

    /// A refusal says that nothing was done. A deadline that passes while waiting to try again changes nothing about
    /// that, so it must not turn into "it may have been done".
    #[tokio::test(start_paused = true)]
    async fn a_deadline_between_attempts_reports_the_refusal() {
        let endpoints = Endpoints::new(&["h:1".to_owned()]).expect("address");
        for round in 0..2_000u64 {
            let rules = Rules { timeout: Duration::from_micros(50_000 + round * 37), fail_fast: false };
            let refuse = |_: Channel, _: Request<()>| async {
                // Takes no time, but is not there at the first look either, like every answer from a socket.
                tokio::task::yield_now().await;
                Err::<Response<()>, _>(
                    Failure::new(Kind::Unavailable, reason::NO_LEADER, "election").to_status(),
                )
            };
            let error = call(&endpoints, rules, About::Nothing, Again::Always, (), refuse)
                .await
                .expect_err("refused");
            assert_eq!(
                (error.kind(), error.reason()),
                (Kind::Unavailable, reason::NO_LEADER),
                "round {round}"
            );
        }
    }

    /// What the first attempt may have done, the second one cannot undo.
    #[tokio::test(start_paused = true)]
    async fn a_refusal_after_an_attempt_in_doubt_reports_the_doubt() {
        let endpoints = Endpoints::new(&["h:1".to_owned()]).expect("address");
        let rules = Rules { timeout: Duration::from_secs(3), fail_fast: false };
        let attempts = std::sync::atomic::AtomicU32::new(0);
        let answer = |_: Channel, _: Request<()>| {
            let first = attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            async move {
                tokio::task::yield_now().await;
                let failure = if first {
                    Failure::new(Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN, "the leader has changed")
                } else {
                    Failure::new(Kind::Unavailable, reason::NO_LEADER, "election")
                };
                Err::<Response<()>, _>(failure.to_status())
            }
        };
        let error =
            call(&endpoints, rules, About::Nothing, Again::Always, (), answer).await.expect_err("refused");
        assert_eq!((error.kind(), error.reason()), (Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN));
        assert!(error.message().contains("the leader has changed") && error.message().contains("election"));
        assert!(attempts.into_inner() > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_runs_out_of_time_says_what_it_was_told_before() {
        let endpoints = Endpoints::new(&["h:1".to_owned()]).expect("address");
        let rules = Rules { timeout: Duration::from_secs(2), fail_fast: false };
        let attempts = std::sync::atomic::AtomicU32::new(0);
        let answer = |_: Channel, _: Request<()>| {
            let first = attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            async move {
                if !first {
                    std::future::pending::<()>().await;
                }
                let failure = Failure::new(Kind::Unavailable, reason::PEER_FAILED, "nobody speaks there");
                Err::<Response<()>, _>(failure.to_status())
            }
        };
        let error =
            call(&endpoints, rules, About::Nothing, Again::Always, (), answer).await.expect_err("no answer");
        assert_eq!((error.kind(), error.reason()), (Kind::OutcomeUnknown, reason::DEADLINE_EXCEEDED));
        assert!(error.message().contains("told: nobody speaks there"), "{error}");
    }

    /// A host that stops asks to be left alone for a second; the others serve meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_host_that_stops_costs_no_wait_where_there_is_another() {
        let endpoints = Endpoints::new(&["h:1".to_owned(), "h:2".to_owned()]).expect("address");
        let rules = Rules { timeout: Duration::from_secs(5), fail_fast: false };
        let attempts = std::sync::atomic::AtomicU32::new(0);
        let answer = |_: Channel, _: Request<()>| {
            let first = attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            async move {
                let draining = Failure::new(Kind::Unavailable, reason::DRAINING, "stopping");
                match first {
                    true => Err(draining.with_retry_after(Duration::from_secs(1)).to_status()),
                    false => Ok(Response::new(())),
                }
            }
        };
        let begin = Instant::now();
        call(&endpoints, rules, About::Nothing, Again::Always, (), answer).await.expect("the other serves");
        assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn p9_a_dead_port_fails_within_the_deadline_and_at_once_if_asked() {
        let address = dead_address().await;
        let timeout = Duration::from_millis(300);
        for fail_fast in [true, false] {
            let client = Client::builder([address.as_str()]).timeout(timeout).fail_fast(fail_fast).build();
            let start = Instant::now();
            let error =
                client.expect("address").create("q", NewTask::new("x")).await.expect_err("nobody is there");
            assert_eq!((error.kind(), error.reason()), (Kind::Unavailable, reason::UNREACHABLE), "{error}");
            assert!(error.message().contains(&address), "{error}");
            assert!(start.elapsed() < timeout + Duration::from_secs(3), "{:?}", start.elapsed());
        }
    }

    #[tokio::test]
    async fn p9_a_host_that_never_answers_fails_within_the_deadline() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = silent.local_addr().expect("bound").to_string();
        let client = Client::builder([address]).timeout(Duration::from_millis(200)).build().expect("address");
        let error = client.ping().await.expect_err("nobody answers");
        assert_eq!(
            (error.kind(), error.reason()),
            (Kind::OutcomeUnknown, reason::DEADLINE_EXCEEDED),
            "{error}"
        );
    }
}
