//! State digests at indexes that all replicas remember, so that they can be compared (P11).
//!
//! Replicas apply the same entries at different times; at every [`EVERY`]th index each notes its digest. The leader
//! tells the others, who compare at once or when they get there. The cost is one comparison an entry.
//!
//! # Not here
//! - What the digest covers: `z4-store`. What to do about a difference: `replica.rs` stops the host.

use std::collections::VecDeque;

use z4_types::Index;

/// Between two noted indexes.
const EVERY: u64 = 256;
/// Digests kept.
const KEPT: usize = 16;

/// See the module essay.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    /// Oldest first.
    noted: VecDeque<(Index, u64)>,
    /// What the leader had at indexes that are not applied here.
    awaited: VecDeque<(Index, u64)>,
    /// Noted since it was taken last.
    news: Option<(Index, u64)>,
}

impl Digests {
    /// Takes note of the digest after an entry.
    ///
    /// # Errors
    /// The leader's digest if it is another.
    pub(crate) fn applied(&mut self, index: Index, digest: u64) -> Result<(), u64> {
        if !index.0.is_multiple_of(EVERY) {
            return Ok(());
        }
        if self.noted.len() == KEPT {
            self.noted.pop_front();
        }
        self.noted.push_back((index, digest));
        self.news = Some((index, digest));
        let awaited = self.awaited.iter().find(|(at, _)| *at == index).map(|(_, theirs)| *theirs);
        self.awaited.retain(|(at, _)| *at > index);
        match awaited {
            Some(theirs) if theirs != digest => Err(theirs),
            _ => Ok(()),
        }
    }

    /// Compares with the leader's digest at `index`, later if that is not applied yet.
    ///
    /// # Errors
    /// The leader's digest if ours is another.
    pub(crate) fn compare(&mut self, index: Index, theirs: u64) -> Result<(), u64> {
        if let Some((_, mine)) = self.noted.iter().find(|(at, _)| *at == index) {
            return if *mine == theirs { Ok(()) } else { Err(theirs) };
        }
        if self.noted.back().is_none_or(|(newest, _)| *newest < index) {
            if self.awaited.len() == KEPT {
                self.awaited.pop_front();
            }
            self.awaited.push_back((index, theirs));
        }
        Ok(())
    }

    /// Takes the digest noted last, if it is new.
    pub(crate) fn take_news(&mut self) -> Option<(Index, u64)> {
        self.news.take()
    }

    /// Returns the digests kept, oldest first.
    pub(crate) fn all(&self) -> Vec<(Index, u64)> {
        self.noted.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_digest_is_found_whoever_comes_first() {
        let mut digests = Digests::default();
        assert_eq!(digests.compare(Index(256), 7), Ok(()), "not applied yet");
        assert_eq!(digests.applied(Index(255), 1), Ok(()));
        assert_eq!(digests.take_news(), None);
        assert_eq!(digests.applied(Index(256), 8), Err(7));
        let mut digests = Digests::default();
        assert_eq!(digests.applied(Index(512), 5), Ok(()));
        assert_eq!(digests.take_news(), Some((Index(512), 5)));
        assert_eq!((digests.compare(Index(512), 5), digests.compare(Index(512), 6)), (Ok(()), Err(6)));
        assert_eq!(digests.compare(Index(256), 9), Ok(()), "older ones are not known any more");
        for at in 3..100 {
            assert_eq!(digests.applied(Index(at * 256), at), Ok(()));
        }
        assert_eq!(digests.all().len(), KEPT);
    }
}
