//! A planted bug: a new leader believes that consumers it does not know are gone, and gives their tasks to others.
//!
//! # Not here
//! - Anything of a release: only the simulator builds this.

use bytes::Bytes;
use z4_multiraft::Fault;
use z4_store::GroupStore;
use z4_tasks::command::{Command, Settlement, Verdict};
use z4_tasks::{ListFilter, TaskState, encode};
use z4_types::Duration;

use super::{TaskShard, Waiter, fault};
use crate::rows::RowsRef;

/// Tasks looked at in each queue.
const LOOK: u32 = 100;

impl TaskShard {
    pub(super) fn release_unknown(&mut self, store: &GroupStore) -> Result<(), Fault> {
        let rows = RowsRef(store);
        let queues: Vec<_> = self.machine.queues().map(|(name, _)| name.clone()).collect();
        let mut leases = Vec::new();
        for queue in queues {
            let page = z4_tasks::list(&rows, &queue, ListFilter::default(), None, LOOK).map_err(fault)?;
            leases.extend(page.tasks.iter().filter_map(|task| match &task.state {
                TaskState::Leased { token, .. } => Some(Settlement {
                    id: task.id,
                    token: *token,
                    verdict: Verdict::Release { delay: Duration(0) },
                }),
                _ => None,
            }));
        }
        if !leases.is_empty() {
            let encoded: Bytes = encode(&Command::Settle(leases));
            self.pend(encoded, Waiter::Nobody);
        }
        Ok(())
    }
}
