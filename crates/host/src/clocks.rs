//! How far the wall clocks of other hosts are from this host's, and when that deserves a word.
//!
//! ```text
//! ours      ──── question ─────────────┬───────────── answer, ours read ──>
//!                     └── half the round trip ──┘
//! theirs    ───────────────────── theirs read ──────────────────────────>
//! ```
//! Their clock was read at some moment of the round trip; the middle is taken for it, so the offset is known to half
//! the round trip (Mills: NTP's clock offset, RFC 5905 §8). Only the newest exchange counts: a clock that jumps is seen
//! with the next one, and a slow exchange says itself how little it knows.
//!
//! **Off and back.** A clock is off once it is certainly more than [`OFF_MS`] away, and back once it is certainly less
//! than [`BACK_MS`] away; in between nothing changes, so a clock at the limit is no stream of news. Nothing is refused
//! for a clock: shard time is the log's and never goes back (`z4-multiraft`, `clock.rs`). But it begins where its
//! leader's wall clock stands, so a leader that is ahead delivers early and ends leases early. Therefore who finds its
//! own clock to be the odd one hands its leaderships over, and nobody hands any to a host whose clock is off
//! (`controller.rs`).
//!
//! # Invariants
//! - `off` changes by an exchange only. A host is warned of at most once in [`SAY_AGAIN_NS`], and called back only
//!   after a warning.
//! # Not here
//! - Asking: `cluster/clocks.rs`. Correcting anything: that is NTP's, on the host itself.
//! # Caveats
//! - A host whose clock is off leads until it was compared: at its first pass, and then every five seconds.
//! - What a leader that was ahead has logged stays: the next leader's time of that shard begins there and runs a twentieth
//!   slower until the excess is gone. Other shards are not touched.
//! - Two clocks that differ do not tell which is wrong. Who differs alike from most of the others says so of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use z4_types::{HostId, Millis};

/// A clock further away than this is off. NTP keeps hosts within milliseconds, so a second means that it does not run.
const OFF_MS: u64 = 1_000;
/// A clock that was off is back when it is nearer than this.
const BACK_MS: u64 = 500;
/// A host is warned of once in this time, as long as its clock is off.
const SAY_AGAIN_NS: u64 = 60_000_000_000;
/// An exchange says how clocks stand for so long: several were to follow it. Then the offset is not known.
const FRESH_NS: u64 = 30_000_000_000;
/// The clock of one other host tells nothing about whose is wrong.
const WITNESSES_MIN: usize = 2;

/// Another host's wall clock, as last measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerClock {
    /// Theirs less ours, milliseconds: positive if theirs is ahead.
    pub offset_ms: i64,
    /// The true offset lies within so many milliseconds of it, if neither clock was set meanwhile.
    pub uncertainty_ms: u64,
    /// Milliseconds since it was measured.
    pub age_ms: u64,
    /// Whether it is far enough away to be warned of.
    pub off: bool,
}

/// A clock that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// What the other host said.
    pub(crate) theirs: Millis,
    /// Our wall clock when the answer was there.
    pub(crate) ours: Millis,
    /// From question to answer.
    pub(crate) took: Duration,
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// A clock is off, or still is.
    Off {
        /// Whose.
        peer: HostId,
        /// See [`PeerClock::offset_ms`].
        offset_ms: i64,
        /// For people: who, how much, what to do.
        text: String,
    },
    /// It is near again.
    Back {
        /// Whose.
        peer: HostId,
        /// See [`PeerClock::offset_ms`].
        offset_ms: i64,
    },
}

/// The clocks of all other hosts.
#[derive(Debug)]
pub(crate) struct Clocks {
    own: HostId,
    peers: BTreeMap<HostId, Watched>,
}

/// One other host's clock.
#[derive(Debug, Default)]
struct Watched {
    offset_ms: i64,
    uncertainty_ms: u64,
    /// Monotonic time of the last exchange.
    heard_ns: u64,
    off: bool,
    /// Monotonic time of the last warning.
    said_ns: Option<u64>,
    /// It was warned of since it was near for the last time.
    warned: bool,
}

impl Exchange {
    /// Returns theirs less ours, and how uncertain that is, both in milliseconds.
    fn offset(&self) -> (i64, u64) {
        let half_us = i128::try_from(self.took.as_micros() / 2).unwrap_or(i128::MAX);
        let middle_us = (i128::from(self.ours.0) * 1_000).saturating_sub(half_us);
        let offset_us = (i128::from(self.theirs.0) * 1_000).saturating_sub(middle_us);
        let offset_ms = offset_us.div_euclid(1_000).clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
        // Both clocks and the half are in whole milliseconds, rounded down.
        let uncertainty_ms = u64::try_from(half_us / 1_000).unwrap_or(u64::MAX).saturating_add(2);
        (offset_ms, uncertainty_ms)
    }
}

impl Clocks {
    /// Returns the clocks as `own` sees them: none yet.
    pub(crate) fn new(own: HostId) -> Self {
        Self { own, peers: BTreeMap::new() }
    }

    /// Forgets whoever is not in `hosts`.
    pub(crate) fn keep<T>(&mut self, hosts: &BTreeMap<HostId, T>) {
        self.peers.retain(|host, _| hosts.contains_key(host));
    }

    /// Takes the exchanges of one round, over at `now_ns`, and returns what is to be said.
    pub(crate) fn round(
        &mut self,
        exchanges: impl IntoIterator<Item = (HostId, Exchange)>,
        now_ns: u64,
    ) -> Vec<News> {
        let heard: BTreeMap<HostId, Exchange> = exchanges.into_iter().collect();
        for (peer, exchange) in &heard {
            self.peers.entry(peer.clone()).or_default().take(exchange, now_ns);
        }
        // Said when all of the round are known: which clock is the odd one may depend on the last.
        let mut news = Vec::new();
        for peer in heard.into_keys() {
            let text = self.warning(&peer, now_ns);
            let Some(watched) = self.peers.get_mut(&peer) else { continue };
            let offset_ms = watched.offset_ms;
            if let Some(text) = text
                && watched.said_ns.is_none_or(|said| now_ns.saturating_sub(said) >= SAY_AGAIN_NS)
            {
                (watched.said_ns, watched.warned) = (Some(now_ns), true);
                news.push(News::Off { peer, offset_ms, text });
            } else if !watched.off && watched.warned {
                watched.warned = false;
                news.push(News::Back { peer, offset_ms });
            }
        }
        news
    }

    /// Returns the clocks that are known at `now_ns`.
    pub(crate) fn known(&self, now_ns: u64) -> BTreeMap<HostId, PeerClock> {
        self.fresh(now_ns).map(|(peer, watched)| (peer.clone(), watched.seen(now_ns))).collect()
    }

    /// Returns the hosts that had better not lead: this one if its clock is the odd one, else those whose clocks are off.
    pub(crate) fn astray(&self, now_ns: u64) -> BTreeSet<HostId> {
        if self.is_odd(now_ns) {
            return BTreeSet::from([self.own.clone()]);
        }
        self.fresh(now_ns).filter(|(_, watched)| watched.off).map(|(peer, _)| peer.clone()).collect()
    }

    /// Returns, for people, which clocks are known to be off at `now_ns`, and what to do.
    pub(crate) fn warnings(&self, now_ns: u64) -> Vec<String> {
        self.peers.keys().filter_map(|peer| self.warning(peer, now_ns)).collect()
    }

    fn fresh(&self, now_ns: u64) -> impl Iterator<Item = (&HostId, &Watched)> {
        self.peers.iter().filter(move |(_, watched)| watched.is_fresh(now_ns))
    }

    fn warning(&self, peer: &HostId, now_ns: u64) -> Option<String> {
        let watched = self.peers.get(peer).filter(|watched| watched.off && watched.is_fresh(now_ns))?;
        let Self { own, .. } = self;
        let seconds = watched.offset_ms.unsigned_abs() as f64 / 1e3;
        let way = if watched.offset_ms > 0 { "ahead of" } else { "behind" };
        let odd = if self.is_odd(now_ns) {
            format!("; most hosts differ from {own} in the same way, so look there first")
        } else {
            String::new()
        };
        Some(format!(
            "the wall clock of host {peer} is {seconds:.3} s {way} that of host {own}: check that NTP runs on both \
             (timedatectl, chronyc tracking){odd}. All is served meanwhile, but tasks are delivered and leases end by \
             the clock of their shard's leader"
        ))
    }

    /// Returns whether this host's clock is the odd one: most of the others are off, all to the same side.
    fn is_odd(&self, now_ns: u64) -> bool {
        let (mut all, mut ahead, mut behind) = (0, 0, 0);
        for (_, watched) in self.fresh(now_ns) {
            all += 1;
            match watched.off {
                true if watched.offset_ms > 0 => ahead += 1,
                true => behind += 1,
                false => {}
            }
        }
        all >= WITNESSES_MIN && 2 * usize::max(ahead, behind) > all
    }
}

impl Watched {
    fn take(&mut self, exchange: &Exchange, now_ns: u64) {
        (self.offset_ms, self.uncertainty_ms) = exchange.offset();
        self.heard_ns = now_ns;
        let away = self.offset_ms.unsigned_abs();
        self.off = if self.off {
            away.saturating_add(self.uncertainty_ms) >= BACK_MS
        } else {
            away.saturating_sub(self.uncertainty_ms) > OFF_MS
        };
    }

    fn is_fresh(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.heard_ns) <= FRESH_NS
    }

    fn seen(&self, now_ns: u64) -> PeerClock {
        PeerClock {
            offset_ms: self.offset_ms,
            uncertainty_ms: self.uncertainty_ms,
            age_ms: now_ns.saturating_sub(self.heard_ns) / 1_000_000,
            off: self.off,
        }
    }
}

#[cfg(test)]
mod tests;
