//! `queue purge QUEUE`: ends the tasks that are in a queue now, and prints how many.
//!
//! A person is asked first; a script says --yes. A large purge is several calls, and tells on the way how far it is.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use serde_json::json;
use z4_client::{Client, PurgeState, Queue};

use crate::args::{Purge, PurgeOf};
use crate::failure::Failure;
use crate::output;

const ALL: [PurgeOf; 4] = [PurgeOf::Waiting, PurgeOf::Leased, PurgeOf::Dead, PurgeOf::Finished];

pub(super) async fn run(client: &Client, purge: Purge, json: bool) -> Result<(), Failure> {
    let Purge { name, mut state, all, yes } = purge;
    if all {
        state = ALL.to_vec();
    } else if state.is_empty() {
        state = vec![PurgeOf::Waiting];
    }
    if !yes {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::Usage("nobody can be asked whether to purge: add --yes".to_owned()));
        }
        let count = count(&client.get_queue(&name).await?, &state);
        if !confirmed(&format!("End {count} tasks of {name} for good? [y/N] "))? {
            return Err(Failure::Failed("nothing was purged".to_owned()));
        }
    }
    let states: Vec<PurgeState> = state.into_iter().map(Into::into).collect();
    let mut purged = 0;
    let mut token = None;
    loop {
        let part = client.purge_queue_part(&name, &states, token.as_deref()).await;
        let part = part.inspect_err(|_| {
            if purged > 0 {
                output::talk(format_args!("{purged} tasks were purged before it failed"));
            }
        })?;
        purged += part.purged;
        token = part.next;
        if token.is_none() {
            break;
        }
        output::talk(format_args!("purged {purged} so far"));
    }
    if json {
        output::json(&json!({ "queue": name, "purged": purged }))
    } else {
        output::line(format_args!("purged {purged}"))
    }
}

fn count(queue: &Queue, states: &[PurgeOf]) -> u64 {
    let of = |state: &PurgeOf| match state {
        PurgeOf::Waiting => queue.waiting,
        PurgeOf::Leased => queue.leased,
        PurgeOf::Dead => queue.dead,
        PurgeOf::Finished => queue.finished,
    };
    ALL.iter().filter(|state| states.contains(state)).map(of).sum()
}

/// Asks on stderr, so that stdout stays data.
fn confirmed(question: &str) -> Result<bool, Failure> {
    let mut err = std::io::stderr();
    write!(err, "{question}").and_then(|()| err.flush())?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::Failed(format!("cannot read the answer: {error}")))?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
