//! Changes of the registry from any host: through the leader of shard 0, wherever it is.

use std::time::Duration;

use tokio::time::sleep;
use z4_multiraft::Input;
use z4_registry::{Command, Registry};
use z4_types::{HostId, Kind, ShardId};

use super::{ASK, Cluster};
use crate::ask::{Answer, Question};
use crate::error::Error;
use crate::machine::HostWrite;
use crate::registry_shard::RegistryChange;
use crate::shard::reply;

/// The registry's own shard.
const SHARD: ShardId = ShardId(0);
/// A change that found no leader for so long is given up.
const PATIENCE_NS: u64 = 10_000_000_000;
/// A leader has so long to answer for a change; an election may come between.
const ANSWER: Duration = Duration::from_secs(8);
/// Between two looks for a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// This host's own registry shows a change of its leader within that time, or is left behind.
const SEEN_NS: u64 = 3_000_000_000;
const SEEN_PAUSE: Duration = Duration::from_millis(10);

impl Cluster {
    /// Changes the registry. Waits for a leader, for as long as nothing was proposed.
    ///
    /// # Errors
    /// `Registry` if it is refused; `NotLeader` if there was no leader; `Unknown`; `Stopping`.
    pub(crate) async fn change(&self, command: Command) -> Result<(), Error> {
        let until = self.clock.monotonic_ns() + PATIENCE_NS;
        loop {
            let here = self.runner.leaders().of(SHARD).is_some_and(|leader| leader.here);
            let changed = if here {
                self.change_here(command.clone()).await
            } else if let Some((host, address)) = self.registry_leader() {
                self.change_there(&host, &address, command.clone()).await
            } else {
                Err(Error::NotLeader(SHARD))
            };
            match changed {
                Err(Error::NotLeader(_)) if self.clock.monotonic_ns() < until => sleep(LOOK_AGAIN).await,
                changed => return changed,
            }
        }
    }

    /// Changes the registry if this host leads it.
    ///
    /// # Errors
    /// As [`Cluster::change`].
    pub(super) async fn change_here(&self, command: Command) -> Result<(), Error> {
        let (reply, answer) = reply();
        self.runner.send(Input::Write(SHARD, HostWrite::Registry(RegistryChange { command, reply })));
        answer.await.unwrap_or(Err(Error::Unknown))
    }

    async fn change_there(&self, host: &HostId, address: &str, command: Command) -> Result<(), Error> {
        match self.ask(address, Some(host), &Question::Command(command), ANSWER).await {
            Ok((_, Answer::Done)) => Ok(()),
            Ok((_, Answer::Refused(refusal))) => Err(Error::Registry(refusal)),
            // It leads no more, or is about to stop: nothing was proposed.
            Ok((_, Answer::Elsewhere(_) | Answer::Failed(Kind::Unavailable, _))) => {
                Err(Error::NotLeader(SHARD))
            }
            Ok((_, Answer::Failed(kind, text))) => Err(Error::Peer(kind, text)),
            Ok(_) => Err(Error::Unknown),
            Err(Error::Peer(Kind::OutcomeUnknown, _)) => Err(Error::Unknown),
            // The question did not reach it: it may have just died.
            Err(Error::Peer(Kind::Unavailable | Kind::Overloaded, _)) => Err(Error::NotLeader(SHARD)),
            Err(error) => Err(error),
        }
    }

    /// Returns the leader of the registry and its peer address, if it is another host and known.
    pub(super) fn registry_leader(&self) -> Option<(HostId, String)> {
        let replica = self
            .runner
            .leaders()
            .of(SHARD)
            .map(|leader| leader.replica)
            .filter(|replica| *replica > 0)
            .or_else(|| self.told_leader(SHARD))?;
        let registry = self.registry();
        let host = registry.host_of_replica(SHARD, replica).filter(|host| host.id != self.config.host)?;
        Some((host.id.clone(), host.address.clone()))
    }

    /// Adds the host that waits at `address` under its name.
    ///
    /// # Errors
    /// `Peer` if no such host answers there; `Registry` if it is refused; otherwise as [`Cluster::change`].
    pub(crate) async fn add_peer(&self, host: HostId, address: String) -> Result<(), Error> {
        if !self.identity().is_member() {
            return Err(Error::NotJoined);
        }
        let greeted = self.ask(&address, Some(&host), &Question::Greet, ASK).await;
        let (found, answer) = greeted.map_err(|error| match error {
            Error::Peer(kind, text) if !text.contains(&address) => {
                Error::Peer(kind, format!("{address}: {text}"))
            }
            error => error,
        })?;
        let own = self.identity();
        let Answer::Greeting(greeting) = answer else {
            return Err(Error::Peer(Kind::Unsupported, format!("host {host} does not answer a greeting")));
        };
        if greeting.member && found.cluster != own.cluster {
            let text = format!(
                "host {host} belongs to another cluster ({}); to move it here, stop it, empty its directories and start \
                 it without Z4_BOOTSTRAP_CLUSTER",
                found.cluster
            );
            return Err(Error::Peer(Kind::Invalid, text));
        }
        if found.cluster_name != own.cluster_name {
            let text = format!(
                "host {host} is configured for cluster {:?}, not {:?}: set its Z4_CLUSTER_NAME",
                found.cluster_name, own.cluster_name
            );
            return Err(Error::Peer(Kind::Invalid, text));
        }
        self.change(self.admission(&host, found.instance, address.clone())?).await?;
        if greeting.member {
            return Ok(());
        }
        let is_placed = |registry: &Registry| {
            registry.host(&host).is_some_and(|known| known.instance == found.instance)
                && registry.replica_on(SHARD, &host).is_some()
        };
        let registry = self.wait_for(is_placed).await.ok_or_else(|| {
            let text = format!("host {host} is added, but this host has not heard of it yet; call again");
            Error::Peer(Kind::Unavailable, text)
        })?;
        match self.ask(&address, Some(&host), &Question::Adopt(registry), ANSWER).await? {
            (_, Answer::Done) => Ok(()),
            (_, Answer::Refused(refusal)) => Err(Error::Registry(refusal)),
            (_, Answer::Failed(kind, text)) => Err(Error::Peer(kind, text)),
            _ => Err(Error::Peer(Kind::Unsupported, format!("host {host} does not know how to be added"))),
        }
    }

    /// Removes a host for good. Returns when this host knows, unless that takes long.
    ///
    /// # Errors
    /// As [`Cluster::change`].
    pub(crate) async fn remove_peer(&self, host: HostId) -> Result<(), Error> {
        self.change(Command::RemoveHost { host: host.clone() }).await?;
        self.wait_for(|registry| !registry.host(&host).is_some_and(z4_registry::Host::is_member)).await;
        Ok(())
    }

    pub(super) async fn wait_for(&self, holds: impl Fn(&Registry) -> bool) -> Option<Registry> {
        let until = self.clock.monotonic_ns() + SEEN_NS;
        loop {
            let registry = self.registry();
            if holds(&registry) {
                return Some((*registry).clone());
            }
            if self.clock.monotonic_ns() >= until {
                return None;
            }
            sleep(SEEN_PAUSE).await;
        }
    }
}
