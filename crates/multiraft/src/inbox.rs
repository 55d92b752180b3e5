//! The driver's letter box: many writers, one reader that sleeps when it is empty.
//!
//! A write to a sleeping reader costs one futex call, to a busy one a lock and a push. The box itself does not
//! bound memory: callers hold a permit for every request they put in (`z4-host`), and give it back when answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

/// Letters for which room is kept when the box is empty.
const CAPACITY_KEPT: usize = 1_024;

/// See the module essay.
#[derive(Debug)]
pub struct Inbox<T> {
    /// None once closed.
    waiting: Mutex<Option<Vec<T>>>,
    reader: OnceLock<Thread>,
    asleep: AtomicBool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Some(Vec::new())),
            reader: OnceLock::new(),
            asleep: AtomicBool::new(false),
        }
    }
}

impl<T> Inbox<T> {
    /// Puts `letter` in and wakes the reader if it sleeps; gives it back if the box is closed.
    ///
    /// # Errors
    /// The letter itself.
    pub fn push(&self, letter: T) -> Result<(), T> {
        match &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(waiting) => waiting.push(letter),
            None => return Err(letter),
        }
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(reader) = self.reader.get()
        {
            reader.unpark();
        }
        Ok(())
    }

    /// Moves everything that waits into `out`, in order of arrival.
    pub fn drain_into(&self, out: &mut Vec<T>) {
        if let Some(waiting) = &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            out.append(waiting);
            // A burst must not keep its memory for ever.
            waiting.shrink_to(CAPACITY_KEPT);
        }
    }

    /// Takes no more letters. Returns those nobody has read.
    pub fn close(&self) -> Vec<T> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// Makes the calling thread the reader. Called once.
    pub fn attach(&self) {
        self.reader.set(std::thread::current()).expect("an inbox has one reader");
    }

    /// Sleeps until something arrives or `timeout` has passed.
    pub fn wait(&self, timeout: Duration) {
        self.asleep.store(true, Ordering::SeqCst);
        // Looked at after `asleep` is set: a push from here on either is seen or unparks.
        let empty =
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(Vec::is_empty);
        if empty {
            std::thread::park_timeout(timeout);
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}
