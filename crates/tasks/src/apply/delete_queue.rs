//! DeleteQueue: forgets a queue that holds no task and has no schedule. Its counters go with it; one of the same name starts from zero.

use z4_types::QueueName;

use crate::machine::Machine;
use crate::outcome::Refusal;
use crate::{Fault, Store};

impl Machine {
    pub(super) fn delete_queue(
        &mut self,
        store: &mut dyn Store,
        name: &str,
        etag: Option<u64>,
    ) -> Result<Result<(), Refusal>, Fault> {
        let queue = QueueName::new(name).expect("validated when the entry was read");
        let Some((number, record)) = self.named(name) else {
            return Ok(Err(Refusal::QueueNotFound(queue)));
        };
        let (tasks, awaited) = (record.tasks(), record.stats.awaited);
        if let Some(refusal) = self.changed(&queue, etag) {
            return Ok(Err(refusal));
        }
        if tasks > 0 {
            return Ok(Err(Refusal::QueueNotEmpty { queue, tasks }));
        }
        if awaited > 0 {
            // Edges name the queue by its number, which would be free for another.
            return Ok(Err(Refusal::QueueAwaited(queue)));
        }
        if let Some(schedule) = self.first_schedule(store, number)? {
            return Ok(Err(Refusal::QueueHasSchedules { queue, schedule }));
        }
        if !self.forget_keys(store, number)? {
            return Ok(Err(Refusal::KeysNotEmpty(queue)));
        }
        // Rows of steps whose last task has gone are deleted with the record's next write, which will not come.
        let now = self.meta.now;
        self.queue_mut(number)?.steps.write(store, number, now)?;
        self.forget_queue(store, number)?;
        Ok(Ok(()))
    }
}
