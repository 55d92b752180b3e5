//! The calls of a handle that concern the cluster: where a shard is led, changes of the registry, others' clocks.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use z4_multiraft::Input;
use z4_registry::{Command, Refusal};
use z4_tasks::Settings;
use z4_types::{HostId, Kind, ShardId};

use super::Handle;
use crate::clocks::PeerClock;
use crate::cluster::{Cluster, policies};
use crate::error::Error;
use crate::machine::HostWrite;
use crate::registry_shard::RegistryChange;
use crate::shard::reply;

/// Where a call for a shard goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// This host leads the shard.
    Here,
    /// Another host does.
    There {
        /// Which.
        host: HostId,
        /// host:port of its gRPC door.
        service: String,
    },
    /// Nobody is known to lead it now; or its leader's door is not known yet.
    Nowhere,
}

impl Handle {
    /// Returns where `shard` is led, as far as this host knows; its knowledge may be a moment old.
    #[must_use]
    pub fn route(&self, shard: ShardId) -> Route {
        let known = self.shared.runner.leaders().of(shard);
        if known.is_some_and(|leader| leader.here) {
            return Route::Here;
        }
        let told = || self.shared.cluster.as_ref()?.told_leader(shard);
        let replica = known.map(|leader| leader.replica).filter(|id| *id > 0).or_else(told);
        let registry = self.registry();
        match replica.and_then(|id| registry.host_of_replica(shard, id)) {
            // Its own door would be a circle: what this host knew is a moment old.
            Some(host) if !host.service.is_empty() && host.id != self.identity().host => {
                Route::There { host: host.id.clone(), service: host.service.clone() }
            }
            _ => Route::Nowhere,
        }
    }

    /// Changes the registry, through whichever host leads it. Waits for a leader, for as long as nothing was proposed.
    ///
    /// # Errors
    /// `Registry` if it is refused; `NotLeader`, `NotJoined`, `Stopping`: nothing was proposed; `Unknown`: it may or may
    /// not have happened; `Peer` if the leader could not do it.
    pub async fn change(&self, command: Command) -> Result<(), Error> {
        self.refuse_if_idle()?;
        if let Some(cluster) = &self.shared.cluster {
            return cluster.change(command).await;
        }
        let (reply, answer) = reply();
        let change = RegistryChange { command, reply };
        self.shared.runner.send(Input::Write(ShardId(0), HostWrite::Registry(change)));
        answer.await.unwrap_or(Err(Error::Unknown))
    }

    /// Sets, for all queues whose names match `pattern`, what they do not set themselves; replaces what was set for it
    /// before. Shards are told within moments.
    ///
    /// # Errors
    /// As [`Handle::change`].
    pub async fn set_policy(&self, pattern: String, settings: &Settings) -> Result<(), Error> {
        self.change_policy(Command::SetPolicy { pattern, settings: settings.encode() }).await
    }

    /// Forgets what was set for `pattern`.
    ///
    /// # Errors
    /// As [`Handle::change`]; `Registry` if nothing was.
    pub async fn delete_policy(&self, pattern: String) -> Result<(), Error> {
        self.change_policy(Command::DeletePolicy { pattern }).await
    }

    async fn change_policy(&self, command: Command) -> Result<(), Error> {
        self.refuse_if_idle()?;
        if let Some(cluster) = &self.shared.cluster {
            return cluster.change_policy(command).await;
        }
        self.change(command).await?;
        // Without a peer port there are no passes of a controller that would see to it.
        let registry = self.registry();
        let encoded = policies::command(&registry).map_err(|pattern| {
            let what = format!("the policy of {pattern:?} was set by a newer version; upgrade this host");
            Error::Storage(Kind::Unsupported, what)
        })?;
        for shard in registry.shards.iter().map(|shard| shard.id).filter(|shard| shard.0 > 0) {
            self.shared.runner.send(Input::Write(shard, policies::write(encoded.clone())));
        }
        Ok(())
    }

    /// Returns the policies that this host knows: their version, and settings by pattern. Ones that a newer version has
    /// set and this one cannot read are left out.
    #[must_use]
    pub fn policies(&self) -> (u64, Vec<(String, Settings)>) {
        let registry = self.registry();
        let list = registry.policies.list.iter();
        let known = list.filter_map(|(pattern, bytes)| Some((pattern.clone(), Settings::decode(bytes)?)));
        (registry.policies.version, known.collect())
    }

    /// Adds the host that waits at `address`, its peer port's host:port, under its name `host`. A host that is a member
    /// already stays one.
    ///
    /// # Errors
    /// `NoPeerPort`; `Peer` if no such host answers there; otherwise as [`Handle::change`].
    pub async fn add_peer(&self, host: HostId, address: String) -> Result<(), Error> {
        self.refuse_if_idle()?;
        self.cluster()?.add_peer(host, address).await
    }

    /// Removes a host for good; its replicas are placed elsewhere.
    ///
    /// # Errors
    /// As [`Handle::change`].
    pub async fn remove_peer(&self, host: HostId) -> Result<(), Error> {
        self.refuse_if_idle()?;
        match &self.shared.cluster {
            Some(cluster) => cluster.remove_peer(host).await,
            None => self.change(Command::RemoveHost { host }).await,
        }
    }

    /// Hands the leadership of `shard`, which this host must have, over to the replica on host `to`. Returns when that
    /// has begun; [`Handle::route`] tells when it has happened.
    ///
    /// # Errors
    /// `NoSuchShard`; `NotLeader`; `Registry` if `to` is no member or has no voter of the shard that answers.
    pub async fn transfer_leader(&self, shard: ShardId, to: HostId) -> Result<(), Error> {
        self.refuse_if_idle()?;
        let registry = self.registry();
        if registry.shard(shard).is_none() {
            return Err(Error::NoSuchShard(shard));
        }
        if !registry.host(&to).is_some_and(z4_registry::Host::is_member) {
            return Err(Refusal::NotFound(to).into());
        }
        if self.route(shard) != Route::Here {
            return Err(Error::NotLeader(shard));
        }
        if to == self.identity().host {
            return Ok(());
        }
        let no_voter = || Refusal::Invalid(format!("host {to} has no voter of shard {shard}"));
        let replica = registry.replica_on(shard, &to).ok_or_else(no_voter)?.id;
        let (reply, answer) = oneshot::channel();
        self.shared.runner.look(move |driver| drop(reply.send(driver.transfer_leader(shard, replica))));
        match answer.await.map_err(|_| Error::Stopping)? {
            Ok(()) => Ok(()),
            Err(z4_consensus::Error::Refused(_, why)) => {
                Err(Refusal::Invalid(format!("shard {shard} cannot be handed to host {to}: {why}")).into())
            }
            Err(_) => Err(Error::NotLeader(shard)),
        }
    }

    /// Returns how far the wall clocks of the other hosts are from this host's: of those measured in the last half
    /// minute.
    #[must_use]
    pub fn peer_clocks(&self) -> BTreeMap<HostId, PeerClock> {
        self.shared.cluster.as_ref().map(|cluster| cluster.peer_clocks()).unwrap_or_default()
    }

    /// Returns, for people, what is not as it should be although the host serves: wall clocks that are off. A sentence
    /// each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.shared.cluster.as_ref().map(|cluster| cluster.clock_warnings()).unwrap_or_default()
    }

    fn cluster(&self) -> Result<&Cluster, Error> {
        self.shared.cluster.as_deref().ok_or(Error::NoPeerPort)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::running::Host;

    #[tokio::test]
    async fn a_change_is_answered_when_it_is_applied_or_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::start(&Config::single("one", dir.path()), |_| {}).expect("starts");
        assert!(host.wait_until_serving(Duration::from_secs(60)), "leads its shards");
        let handle = host.handle();
        handle.change(Command::SetReplication { replication: 5 }).await.expect("is applied");
        assert_eq!(handle.registry().replication, 5, "and published before the answer");
        let refused =
            handle.change(Command::SetReplication { replication: 99 }).await.expect_err("is refused");
        assert!(matches!(&refused, Error::Registry(Refusal::Invalid(_))), "{refused}");
        assert_eq!(refused.kind(), Kind::Invalid);
        let other = HostId("two".into());
        assert_eq!(handle.remove_peer(other.clone()).await, Err(Refusal::NotFound(other.clone()).into()));
        let last = handle.remove_peer(HostId("one".into())).await.expect_err("is refused");
        assert!(matches!(last, Error::Registry(Refusal::LastVoter(_))), "{last}");
        assert_eq!(handle.transfer_leader(ShardId(1), HostId("one".into())).await, Ok(()));
        let error = handle.transfer_leader(ShardId(1), other).await.expect_err("there is no such host");
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(handle.route(ShardId(1)), Route::Here);
        assert_eq!(handle.route(ShardId(999)), Route::Nowhere);
        host.stop().expect("stops");
        assert_eq!(handle.change(Command::SetReplication { replication: 3 }).await, Err(Error::Stopping));
    }
}
