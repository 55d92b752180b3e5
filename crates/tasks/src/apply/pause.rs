//! Pause and resume: whether a queue delivers.
//!
//! Leases that are out stay, and are settled as ever; time ends them and tasks as ever. A resumed queue counts as
//! touched: its tasks may be due.

use z4_types::limits::NOTE_BYTES_MAX;

use crate::codec::cut;
use crate::command::Pause;
use crate::machine::Machine;
use crate::outcome::Refusal;
use crate::queue::Paused;
use crate::rows::Served;
use crate::{Fault, Store};

impl Machine {
    pub(super) fn pause(
        &mut self,
        store: &mut dyn Store,
        pause: &Pause,
    ) -> Result<Result<(), Refusal>, Fault> {
        let Some((number, queue)) = self.named(pause.queue.as_str()) else {
            return Ok(Err(Refusal::QueueNotFound(pause.queue.clone())));
        };
        let was_paused = queue.config.as_ref().is_some_and(|config| config.paused.is_some());
        let paused = pause.paused.then(|| Paused {
            since: self.meta.now,
            note: cut(&pause.note, NOTE_BYTES_MAX).to_owned(),
            author: cut(&pause.author, NOTE_BYTES_MAX).to_owned(),
            until: None,
        });
        // What the breaker saw is of before.
        let served = &mut self.queue_mut(number)?.served;
        *served = Served { bucket: served.bucket, ..Served::default() };
        self.configure(store, number, |config| config.paused = paused)?;
        if was_paused && !pause.paused {
            self.touch(number)?;
        }
        Ok(Ok(()))
    }
}
