//! Bounds the bytes a host holds: of requests between accept and answer, of tasks on their way to consumers (P10).
//!
//! A [`Permit`] travels with a request and gives its bytes back when the request has been answered, however that
//! happened. Settlements may use a little more than creates: they free memory, so they must not starve behind them.
//!
//! A budget may be a part of another one: each consumer has one of its own within that of the host, so that it is known
//! who holds how much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Part of the budget, in percent, that only settlements and cancels may use.
const RESERVED_PERCENT: usize = 15;

/// See the module essay.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
    /// What is in use here is in use there too.
    whole: Option<Arc<Budget>>,
}

/// Bytes taken from a [`Budget`] until dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// Returns a budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit, whole: None })
    }

    /// Returns a part of this budget, which may grow as large as the whole: what is taken of it counts in both.
    #[must_use]
    pub fn part(self: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit: self.limit, whole: Some(Arc::clone(self)) })
    }

    /// Takes `bytes` for work that grows the host's state; None if the budget is used up.
    #[must_use]
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take_below(bytes, self.limit - self.limit * RESERVED_PERCENT / 100)
    }

    /// Takes `bytes` for work that shrinks the host's state.
    #[must_use]
    pub fn take_freeing(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take_below(bytes, self.limit)
    }

    /// Takes `bytes` whatever is in use: for what exists already and only has to be counted.
    #[must_use]
    pub fn take_always(self: &Arc<Self>, bytes: usize) -> Permit {
        self.add(bytes);
        Permit { budget: Arc::clone(self), bytes }
    }

    /// Returns the bytes that may be in use.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the bytes that may still be taken.
    #[must_use]
    pub fn free(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }

    /// Returns the bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn take_below(self: &Arc<Self>, bytes: usize, limit: usize) -> Option<Permit> {
        let before = self.add(bytes);
        // A request larger than the whole budget passes when it is alone: limits of one request are checked elsewhere.
        if before > 0 && before + bytes > limit {
            self.give_back(bytes);
            return None;
        }
        Some(Permit { budget: Arc::clone(self), bytes })
    }

    /// Returns what was in use before.
    fn add(&self, bytes: usize) -> usize {
        if let Some(whole) = &self.whole {
            whole.add(bytes);
        }
        self.used.fetch_add(bytes, Relaxed)
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

impl Permit {
    /// Returns the bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives `bytes` back, or all it has if that is less.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.give_back(bytes);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_refuses_creates_first_and_gives_everything_back() {
        let budget = Budget::new(100);
        let held = budget.take(80).expect("below the limit");
        assert!(budget.take(10).is_none(), "the last part is for settlements");
        let freeing = budget.take_freeing(15).expect("reserved");
        drop((held, freeing));
        assert_eq!(budget.used(), 0);
        assert!(budget.take(1_000).is_some(), "a large request passes alone");
    }

    #[test]
    fn what_a_part_uses_is_used_of_the_whole() {
        let whole = Budget::new(100);
        let (one, other) = (whole.part(), whole.part());
        let mut held = one.take_always(70);
        let more = other.take_always(50);
        assert_eq!((one.used(), other.used(), whole.used(), whole.free()), (70, 50, 120, 0));
        held.shrink(60);
        assert_eq!((held.bytes(), one.used(), whole.used()), (10, 10, 60));
        held.shrink(60);
        drop((held, more));
        assert_eq!((one.used(), other.used(), whole.used()), (0, 0, 0));
    }
}
