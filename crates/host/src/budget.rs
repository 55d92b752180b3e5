//! Bounds the bytes a host holds: of requests between accept and answer, of tasks on their way to consumers (P10).
//!
//! A [`Permit`] travels with a request and gives its bytes back when the request has been answered, however that
//! happened. Settlements may use a little more than creates: they free memory, so they must not starve behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Part of the budget, in percent, that only settlements and cancels may use.
const RESERVED_PERCENT: usize = 15;

/// See the module essay.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
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
        Arc::new(Self { used: AtomicUsize::new(0), limit })
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
        self.used.fetch_add(bytes, Relaxed);
        Permit { budget: Arc::clone(self), bytes }
    }

    /// Returns whether the limit is reached.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used() >= self.limit
    }

    /// Returns the bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn take_below(self: &Arc<Self>, bytes: usize, limit: usize) -> Option<Permit> {
        let before = self.used.fetch_add(bytes, Relaxed);
        // A request larger than the whole budget passes when it is alone: limits of one request are checked elsewhere.
        if before > 0 && before + bytes > limit {
            self.used.fetch_sub(bytes, Relaxed);
            return None;
        }
        Some(Permit { budget: Arc::clone(self), bytes })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
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
}
