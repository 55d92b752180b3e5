//! How much of the outbox a Lease may count on, so that what hosts have leased and not yet written stays bounded (P10).
//!
//! A Lease is bounded before it is proposed and its tasks are read after it is applied: the bytes are reserved in
//! between. What tasks weigh is known only then, so it is guessed from those leased last. A wrong guess costs a round
//! trip, never memory: whoever hands tasks over keeps to the bytes that there are.
//!
//! # Invariants
//! - One consumer that does not read leaves most of the outbox to the others: it may fill its share, which shrinks as
//!   the outbox fills.
//! - A task of any size is leased when nothing else is on its way.
//!
//! Sources: Choudhury and Hahne, "Dynamic queue length thresholds" (1998), for the share.

use z4_tasks::Body;
use z4_types::limits::CONSUMER_OUTBOX_BYTES_MAX;

use crate::budget::Budget;

/// Counted for a delivery besides payload and metadata: its record here and in the door.
pub(crate) const DELIVERY_OVERHEAD: usize = 384;
/// Counted for a pair of metadata besides its bytes: two strings.
const PAIR_OVERHEAD: usize = 80;
/// A consumer may have this part of an empty outbox on its way, as a divisor.
const SHARE_PART: usize = 4;
/// Assumed of a queue nobody has leased from, and at least. Small: a larger task teaches better at once.
const PAYLOAD_GUESS: usize = 256;

/// What the tasks of a queue weigh, as far as the last Leases tell.
#[derive(Debug)]
pub(crate) struct Weights {
    /// Largest payload.
    payload: usize,
    /// Largest metadata.
    metadata: usize,
}

/// What a consumer may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// So many bytes: enough for one task at least.
    Bytes(usize),
    /// Nothing before it has taken what is on its way to it.
    Sated,
    /// Nothing before others have taken what is on its way to them.
    Full,
}

impl Default for Weights {
    fn default() -> Self {
        Self { payload: PAYLOAD_GUESS, metadata: 0 }
    }
}

impl Weights {
    /// Takes note of a Lease's largest payload and metadata. Smaller ones are believed slowly.
    pub(crate) fn learn(&mut self, payload: usize, metadata: usize) {
        self.payload = payload.max(self.payload / 2).max(PAYLOAD_GUESS);
        self.metadata = metadata.max(self.metadata / 2);
    }

    /// Returns what the next task may need.
    pub(crate) fn one(&self) -> usize {
        DELIVERY_OVERHEAD + self.metadata + self.payload
    }

    /// Returns how many of `tasks`, and how many payload bytes, fit into `room`; at least one task. Never more bytes
    /// than such tasks are likely to have: what is reserved in vain is missing elsewhere.
    pub(crate) fn fit(&self, room: usize, tasks: u32) -> (u32, usize) {
        let each = self.one() - self.payload;
        let most = room.saturating_sub(self.payload).min(room / 2) / each;
        let tasks = tasks.min(u32::try_from(most).unwrap_or(u32::MAX)).max(1);
        let count = tasks as usize;
        let bytes = room.saturating_sub(count * each).min(count.saturating_mul(self.payload));
        (tasks, bytes.max(self.payload))
    }

    /// Returns the bytes to reserve for a Lease of so many tasks and payload bytes.
    pub(crate) fn reserve(&self, tasks: u32, bytes: u64) -> usize {
        let payload = usize::try_from(bytes).unwrap_or(usize::MAX).max(self.payload);
        payload.saturating_add(tasks as usize * (self.one() - self.payload))
    }
}

/// Returns what the metadata of a task weighs.
pub(crate) fn metadata_weight(body: &Body) -> usize {
    body.metadata.iter().map(|(key, value)| key.len() + value.len() + PAIR_OVERHEAD).sum()
}

/// Returns the room of a consumer whose own part of `outbox` is `own`, if a task needs `one` byte count.
pub(crate) fn room(outbox: &Budget, own: &Budget, one: usize) -> Room {
    let (free, held) = (outbox.free(), own.used());
    let share = share(free, outbox.limit());
    if held > 0 {
        let left = share.saturating_sub(held);
        return if left >= one { Room::Bytes(left) } else { Room::Sated };
    }
    if free < one && outbox.used() > 0 {
        return Room::Full;
    }
    Room::Bytes(share.max(one))
}

/// Returns what one consumer may have on its way when `free` bytes of `limit` are left. It shrinks with the square: were it
/// a fixed part of what is free, a dozen consumers that never read would leave nothing. So n of them leave about
/// `limit / (1 + n / 4)`.
fn share(free: usize, limit: usize) -> usize {
    let square = free as u128 * free as u128 / limit.max(1) as u128;
    (usize::try_from(square).unwrap_or(usize::MAX) / SHARE_PART).min(CONSUMER_OUTBOX_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_does_not_read_leaves_most_of_the_outbox_to_others() {
        let outbox = Budget::new(48 << 20);
        let mut stuck = Vec::new();
        for _ in 0..100 {
            let own = outbox.part();
            while let Room::Bytes(bytes) = room(&outbox, &own, 1_000) {
                stuck.push(own.take_always(bytes));
            }
        }
        assert!(matches!(room(&outbox, &outbox.part(), 1_000), Room::Bytes(10_000..)));
        assert!(outbox.free() > 1 << 20, "only {} bytes are left", outbox.free());
    }

    #[test]
    fn one_task_of_any_size_has_room_when_nothing_is_on_its_way() {
        let outbox = Budget::new(512);
        let (own, other) = (outbox.part(), outbox.part());
        assert_eq!(room(&outbox, &own, 1 << 20), Room::Bytes(1 << 20));
        let held = own.take_always(1 << 20);
        assert_eq!(room(&outbox, &own, 600), Room::Sated);
        assert_eq!(room(&outbox, &other, 600), Room::Full);
        drop(held);
        assert_eq!(room(&outbox, &other, 600), Room::Bytes(600));
    }

    #[test]
    fn a_lease_reserves_no_more_than_its_room_and_asks_for_one_task_at_least() {
        let mut weights = Weights::default();
        weights.learn(1 << 20, 16 << 10);
        let learned = weights;
        for weights in [Weights::default(), learned] {
            for room in [weights.one(), weights.one() * 3, 4 << 20] {
                for tasks in [1, 16, 1_000] {
                    let (fit, bytes) = weights.fit(room, tasks);
                    assert!((1..=tasks).contains(&fit));
                    assert!(
                        weights.reserve(fit, bytes as u64) <= room,
                        "{weights:?}: {fit} tasks, {bytes} bytes in {room}"
                    );
                }
            }
        }
    }
}
