//! One question, one answer: how a host that is no member yet finds out who is there, and asks to join.
//!
//! A connection of its own, closed after the answer. The question is opaque; the handler answers it.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use z4_types::HostId;

use crate::config::Config;
use crate::dial;
use crate::error::Error;
use crate::frame::{BadFrame, Kind};
use crate::greet;
use crate::hello::{Identity, Purpose, Reason, Refusal};
use crate::inbound::say_bye;
use crate::reader::FrameReader;
use crate::status::count;
use crate::stream::Stream;
use crate::transport::Shared;

/// Questions answered at once. Past it they are refused.
const ASKS_MAX: usize = 64;

/// Places for questions.
pub(crate) struct Asks(Semaphore);

impl Default for Asks {
    fn default() -> Self {
        Self(Semaphore::new(ASKS_MAX))
    }
}

/// An answer, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub from: Identity,
    /// What.
    pub body: Bytes,
    /// From the question, sent after the handshake, to the answer.
    pub took: Duration,
}

/// Asks the host at `address` (host:port), if `expects` allows any host or is the one that answers. Needs no running
/// transport: only who asks, how patient and how large. The answerer is not vetted: the caller looks at
/// [`Answer::from`].
///
/// # Errors
/// What stood in the way; [`Error::Unanswered`] once the question may have had an effect.
pub async fn ask(
    config: &Config,
    address: &str,
    expects: Option<&HostId>,
    question: Bytes,
    deadline: Duration,
) -> Result<Answer, Error> {
    config.check()?;
    let max = config.sizes.ask_bytes;
    if question.len() > max {
        return Err(Error::Invalid(format!(
            "a question of {} bytes, where {max} are allowed",
            question.len()
        )));
    }
    let mut sent = false;
    let asking = async {
        let (mut stream, from) = dial::connect(config, address, expects, Purpose::Ask, |_| Ok(())).await?;
        sent = true;
        let asked = config.clock.monotonic_ns();
        greet::write_frame(&mut *stream.writer, Kind::Data, question).await?;
        // The deadline bounds the silence here: an answer may take long to make.
        let body = hear(&mut FrameReader::new(&mut *stream.reader, deadline, None), max).await?;
        let took = Duration::from_nanos(config.clock.monotonic_ns().saturating_sub(asked));
        Ok(Answer { from, body, took })
    };
    let answered = timeout(deadline, asking).await;
    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    match answered {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if !sent => Err(error),
        // Told so before the handler saw the question.
        Ok(Err(Error::Ended(refusal))) if refusal.reason == Reason::Busy => Err(Error::Refused(refusal)),
        Ok(Err(error)) => Err(Error::Unanswered(error.to_string())),
        Err(_) if !sent => Err(Error::Deadline(deadline_ms)),
        Err(_) => Err(Error::Unanswered(format!("the deadline of {deadline_ms} ms has passed"))),
    }
}

/// Answers the question that follows a handshake.
pub(crate) async fn serve(shared: &Shared, mut stream: Stream, from: Identity) {
    let Ok(_place) = shared.asks.0.try_acquire() else {
        let refusal =
            Refusal::new(Reason::Busy, format!("{ASKS_MAX} questions are being answered; ask again"));
        return say_bye(&mut *stream.writer, &refusal).await;
    };
    let (timing, max) = (&shared.config.timing, shared.config.sizes.ask_bytes);
    let mut frames = FrameReader::new(&mut *stream.reader, timing.handshake, None);
    let question = match timeout(timing.handshake, hear(&mut frames, max)).await {
        Ok(Ok(question)) => question,
        Ok(Err(Error::Frame(bad))) => {
            count(&shared.listening.broken);
            return say_bye(&mut *stream.writer, &Refusal::new(Reason::Broken, bad.to_string())).await;
        }
        // The asker has left, or was told why by its own side.
        Ok(Err(_)) => return,
        Err(_) => return count(&shared.listening.silent),
    };
    match timeout(timing.answer, shared.handler.answer(from, question)).await {
        Ok(answer) if answer.len() <= max => {
            count(&shared.listening.asks);
            // A failure means that the asker has gone; it will ask again.
            let _ =
                timeout(timing.handshake, greet::write_frame(&mut *stream.writer, Kind::Data, answer)).await;
        }
        Ok(answer) => {
            tracing::error!(bytes = answer.len(), max, "an answer is too long to be sent");
            let text = format!("the answer has {} bytes, where {max} are allowed", answer.len());
            say_bye(&mut *stream.writer, &Refusal::new(Reason::Broken, text)).await;
        }
        Err(_) => {
            let text = format!("no answer was found in {} s", timing.answer.as_secs());
            say_bye(&mut *stream.writer, &Refusal::new(Reason::Closing, text)).await;
        }
    }
}

async fn hear(frames: &mut FrameReader<'_>, max: usize) -> Result<Bytes, Error> {
    let head = frames.head(max).await?;
    let body = frames.body(&head).await?;
    match head.kind {
        Kind::Data => Ok(body),
        Kind::Bye => Err(Error::Ended(Refusal::decode(&body))),
        Kind::Ping | Kind::Beat => Err(BadFrame::Unexpected.into()),
    }
}
