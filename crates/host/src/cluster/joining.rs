//! A host that belongs to no cluster finds one: it forms one with its initial peers, joins one by itself, or waits to be
//! added.
//!
//! **Forming together.** Initial peers compute the same registry, so none has to wait for another's word. But a host whose
//! disk was lost looks like one that never was there; were it to begin again with its first replica ids, it would have
//! forgotten its votes. So it asks the others first. If one of them knows a leader, the cluster lives: the host asks to
//! join, as what it is (see [`z4_registry::Command::AddHost`] and `ReplaceHost`), and starts empty. It forms if all others
//! answered and nobody knows of it, or, after a while, most of them.
//!
//! # Caveats
//! - With most but not all others heard, a host that lost its disk may be taken for a new one by peers that never heard of
//!   it, if those who did are down: two disks of three would have to be lost or asleep at that moment.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use z4_registry::Registry;
use z4_types::{HostId, Kind};

use super::{ASK, Cluster};
use crate::ask::{Answer, Greeting, Question};
use crate::error::Error;

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(300);
/// So long all initial peers are waited for; then most of them are enough.
const ALL_NS: u64 = 10_000_000_000;
/// A leader has so long to admit a host.
const ANSWER: Duration = Duration::from_secs(8);
/// Hosts asked one after another until one leads.
const HOPS_MAX: usize = 4;
/// Rounds between two log lines that say the same.
const SAY_ROUNDS: u32 = 30;

/// What a round among the initial peers found.
enum Found {
    /// Begin: nobody knows of this host, and enough were heard.
    Begin,
    /// The cluster lives; this member was heard.
    Lives(String),
    /// Not enough was heard, or what was heard leaves no choice but to wait; why.
    Wait(String),
}

/// Runs until the host belongs to a cluster or stops.
pub(super) async fn seek(this: Weak<Cluster>) {
    let Some(started) = this.upgrade().map(|cluster| cluster.clock.monotonic_ns()) else { return };
    let mut said = None;
    for round in 0_u32.. {
        let Some(cluster) = this.upgrade().filter(|cluster| !cluster.is_stopped()) else { return };
        if cluster.identity().is_member() {
            return;
        }
        let waited = cluster.clock.monotonic_ns() - started;
        let outcome = if !cluster.config.initial_peers.is_empty() {
            cluster.form_or_join(waited >= ALL_NS).await
        } else if !cluster.config.join.is_empty() {
            cluster.join_any().await
        } else {
            Err(format!(
                "this host waits to be added to cluster {:?}: z4t -t MEMBER:PORT -p {} -id {} add-peer",
                cluster.config.cluster_name, cluster.config.advertise, cluster.config.host
            ))
        };
        match outcome {
            Ok(()) => return,
            Err(why) if said.as_ref() != Some(&why) || round.is_multiple_of(SAY_ROUNDS) && round > 0 => {
                tracing::info!("{why}");
                said = Some(why);
            }
            Err(_) => {}
        }
        drop(cluster);
        sleep(ROUND).await;
    }
}

impl Cluster {
    /// # Errors
    /// Why not yet.
    async fn form_or_join(self: &Arc<Self>, most_are_enough: bool) -> Result<(), String> {
        let registry = self.config.founding().map_err(|error| error.to_string())?;
        match self.look_around(&registry, most_are_enough).await {
            Found::Begin => self.settle(registry, true).await.map_err(|error| error.to_string()),
            Found::Lives(address) => self.join(&address).await.map_err(|error| error.to_string()),
            Found::Wait(why) => Err(why),
        }
    }

    async fn look_around(self: &Arc<Self>, registry: &Registry, most_are_enough: bool) -> Found {
        let mut asked = JoinSet::new();
        for (host, address) in self.config.initial_peers.iter().filter(|(host, _)| *host != self.config.host)
        {
            let (this, host, address) = (Arc::clone(self), host.clone(), address.clone());
            asked.spawn(async move {
                let answer = this.ask(&address, Some(&host), &Question::Greet, ASK).await;
                (host, address, answer)
            });
        }
        let (mut heard, mut silent, mut known): (usize, Vec<HostId>, Option<HostId>) = (1, Vec::new(), None);
        while let Some(answered) = asked.join_next().await {
            let Ok((host, address, answer)) = answered else { continue };
            match answer {
                Ok((from, _)) if from.cluster != registry.cluster => {
                    return Found::Wait(format!(
                        "host {host} at {address} forms or belongs to another cluster, {} ({}): give all hosts the same \
                         Z4_INITIAL_PEERS, Z4_CLUSTER_NAME and Z4_TASK_SHARDS",
                        from.cluster_name, from.cluster
                    ));
                }
                Ok((_, Answer::Greeting(Greeting { member: true, led: true, .. }))) => {
                    return Found::Lives(address);
                }
                Ok((_, Answer::Greeting(Greeting { your_instance, .. }))) => {
                    heard += 1;
                    if your_instance != 0 {
                        known = Some(host);
                    }
                }
                Ok(_) | Err(_) => silent.push(host),
            }
        }
        silent.sort();
        let silent: Vec<String> = silent.into_iter().map(|host| host.0).collect();
        let all = self.config.initial_peers.len();
        if let Some(host) = known {
            return Found::Wait(format!(
                "host {host} knows this host from before, with a disk that is gone or not yet heard of: waiting for a leader \
                 that admits it anew"
            ));
        }
        if heard == all || most_are_enough && 2 * heard > all {
            return Found::Begin;
        }
        Found::Wait(format!("waiting for {} to form the cluster together", silent.join(", ")))
    }

    /// # Errors
    /// Why not yet.
    async fn join_any(self: &Arc<Self>) -> Result<(), String> {
        let mut why = String::new();
        for address in self.config.join.clone() {
            match self.join(&address).await {
                Ok(()) => return Ok(()),
                Err(error) => why = format!("this host cannot join by way of {address} yet: {error}"),
            }
        }
        Err(why)
    }

    /// Asks the host at `address` to be admitted, or whoever it says leads the registry.
    async fn join(self: &Arc<Self>, address: &str) -> Result<(), Error> {
        let (mut address, mut expects) = (address.to_owned(), None);
        for _ in 0..HOPS_MAX {
            let question = Question::Join {
                address: self.config.advertise.clone(),
                service: self.config.service.clone(),
            };
            let (from, answer) = self.ask(&address, expects.as_ref(), &question, ANSWER).await?;
            match answer {
                Answer::Registry(registry) => return self.settle(registry, false).await,
                Answer::Elsewhere(Some((host, at))) => (expects, address) = (Some(host), at),
                Answer::Elsewhere(None) => {
                    return Err(Error::Peer(Kind::Unavailable, "the cluster has no leader now".into()));
                }
                Answer::Refused(refusal) => return Err(Error::Registry(refusal)),
                Answer::Failed(kind, text) => return Err(Error::Peer(kind, text)),
                _ => {
                    let text = format!("host {} does not know how to admit a host", from.host);
                    return Err(Error::Peer(Kind::Unsupported, text));
                }
            }
        }
        Err(Error::Peer(Kind::Unavailable, "the cluster changes its leader now".into()))
    }
}
