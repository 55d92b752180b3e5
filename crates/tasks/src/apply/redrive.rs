//! Redrive: a dead task gets all its attempts again.
//!
//! Its last error stays until there is another one. The TTL it had ended when it died: it has none any more.

use z4_types::Millis;

use crate::codec::List;
use crate::events::{EventKind, Facts};
use crate::machine::Machine;
use crate::outcome::{Outcome, Refusal};
use crate::rows::{Phase, State};
use crate::{Fault, Store};

impl Machine {
    pub(super) fn redrive(&mut self, store: &mut dyn Store, mut tasks: List<'_>) -> Result<Outcome, Fault> {
        let mut results: Vec<Result<Millis, Refusal>> = Vec::with_capacity(tasks.len());
        while let Some((target, delay)) = tasks.next_redrive()? {
            let (id, state) = match self.target(store, &target)? {
                Ok((id, found)) if found.state.phase == Phase::Dead => (id, found.state),
                Ok((id, _)) => {
                    results.push(Err(Refusal::TaskNotDead(id)));
                    continue;
                }
                Err(refusal) => {
                    results.push(Err(refusal));
                    continue;
                }
            };
            let texts = self.texts(store, id)?;
            self.take_out(store, id, &state)?;
            let due = self.meta.now + delay;
            let mut state = State { failures: 0, ..state };
            let due = self.wait_again(store, id, &mut state, due, texts.as_texts())?;
            self.emit(store, state.queue, id, EventKind::Redriven, || Facts::due(due))?;
            results.push(Ok(due));
        }
        Ok(Outcome::Redriven(results))
    }
}
