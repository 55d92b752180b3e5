//! Asks the other hosts for their clocks, and says which are off.
//!
//! # Not here
//! - What the answers mean: `crate::clocks`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::task::JoinSet;
use z4_types::HostId;

use super::{ASK, Cluster};
use crate::ask::{Answer, Question};
use crate::clocks::{Exchange, News, PeerClock};

impl Cluster {
    /// Returns how far the wall clocks of other hosts are from this one's, of those that were measured lately.
    pub(crate) fn peer_clocks(&self) -> BTreeMap<HostId, PeerClock> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner).known(self.clock.monotonic_ns())
    }

    /// Returns a sentence for each clock that is off.
    pub(crate) fn clock_warnings(&self) -> Vec<String> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner).warnings(self.clock.monotonic_ns())
    }

    /// Returns the hosts that had better not lead.
    pub(super) fn clocks_astray(&self) -> BTreeSet<HostId> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner).astray(self.clock.monotonic_ns())
    }

    /// Asks every host that frames are sent to, all at once.
    pub(super) async fn compare_clocks(self: &Arc<Self>) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        peers.remove(&self.config.host);
        let mut asked = JoinSet::new();
        for (host, address) in peers.clone() {
            let this = Arc::clone(self);
            asked.spawn(async move { this.exchange(&host, &address).await.map(|exchange| (host, exchange)) });
        }
        // A host that does not answer is told of by its lanes.
        let mut heard = Vec::new();
        while let Some(answered) = asked.join_next().await {
            heard.extend(answered.ok().flatten());
        }
        let news = {
            let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
            clocks.keep(&peers);
            clocks.round(heard, self.clock.monotonic_ns())
        };
        for news in news {
            match news {
                News::Off { peer, offset_ms, text } => tracing::warn!(%peer, offset_ms, "{text}"),
                News::Back { peer, offset_ms } => {
                    tracing::info!(%peer, offset_ms, "the wall clocks of host {peer} and this host agree again");
                }
            }
        }
    }

    async fn exchange(&self, host: &HostId, address: &str) -> Option<Exchange> {
        let question = Bytes::from(Question::Clock.encode());
        let answer = self.transport().ok()?.ask(address, Some(host), question, ASK).await.ok()?;
        // Read before anything else: what passes until then would count as an offset.
        let ours = self.clock.wall();
        match Answer::decode(&answer.body) {
            Ok(Answer::Clock(theirs)) => Some(Exchange { theirs, ours, took: answer.took }),
            // A version that does not know the question.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
