//! The row of shard 0.

use z4_types::{ClusterId, ShardId};

use super::{Input, Malformed, Output};
use crate::host::{Host, HostStatus};
use crate::registry::{Policies, Registry};
use crate::shard::{Replica, Role, Shard};

/// The version of a row that ends with the policies.
const WITH_POLICIES: u8 = 2;

const ACTIVE: u8 = 1;
const DRAINING: u8 = 2;
const REMOVED: u8 = 3;

const VOTER: u8 = 1;
const LEARNER: u8 = 2;
const LEAVING: u8 = 3;

impl Registry {
    /// Returns the registry's bytes: of version 1 as long as there never was a policy, so that hosts of a version that
    /// knows none can read them.
    ///
    /// # Panics
    /// If a replica stands on an unknown host: see [`Registry::check`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Output::versioned();
        if self.policies.version > 0 {
            out.0[0] = WITH_POLICIES;
        }
        out.u128(self.cluster.0);
        out.text(&self.name);
        out.u32(self.replication);
        out.list(&self.hosts, put_host);
        out.list(&self.shards, |out, shard| {
            out.u64(shard.epoch);
            out.list(&shard.replicas, |out, replica| {
                let host = self.hosts.iter().position(|host| host.id == replica.host);
                out.u64(replica.id);
                out.count(host.expect("replicas stand on known hosts"));
                out.u8(match replica.role {
                    Role::Voter => VOTER,
                    Role::Learner => LEARNER,
                    Role::Leaving => LEAVING,
                });
            });
        });
        out.u64(self.next_replica);
        if self.policies.version > 0 {
            out.u64(self.policies.version);
            out.list(&self.policies.list, |out, (pattern, settings)| {
                out.text(pattern);
                out.bytes(settings);
            });
        }
        out.0
    }

    /// Reads what [`Registry::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not that. [`Registry::check`] tells whether what they say can be.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut input, version) = Input::of(bytes, WITH_POLICIES)?;
        let cluster = ClusterId(input.u128()?);
        let name = input.text()?;
        let replication = input.u32()?;
        let hosts = input.list(host)?;
        let shards = input.list(|input| Ok((input.u64()?, input.list(|input| replica(input, &hosts))?)))?;
        let next_replica = input.u64()?;
        let policies = if version == WITH_POLICIES { policies(&mut input)? } else { Policies::default() };
        input.end()?;
        let shards = (0..)
            .zip(shards)
            .map(|(id, (epoch, replicas))| Shard { id: ShardId(id), epoch, replicas })
            .collect();
        Ok(Self { cluster, name, replication, hosts, shards, next_replica, policies })
    }
}

fn policies(input: &mut Input<'_>) -> Result<Policies, Malformed> {
    let version = input.u64()?;
    let list = input.list(|input| Ok((input.text()?, input.bytes()?)))?;
    if version == 0 || list.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(Malformed("policies are not in order"));
    }
    Ok(Policies { version, list: list.into_iter().collect() })
}

fn put_host(out: &mut Output, host: &Host) {
    out.text(&host.id.0);
    out.text(&host.address);
    out.text(&host.service);
    out.tags(&host.tags);
    out.u64(host.instance);
    out.u8(match host.status {
        HostStatus::Active => ACTIVE,
        HostStatus::Draining => DRAINING,
        HostStatus::Removed => REMOVED,
    });
    out.list(&host.former, |out, instance| out.u64(*instance));
}

fn host(input: &mut Input<'_>) -> Result<Host, Malformed> {
    Ok(Host {
        id: input.host()?,
        address: input.text()?,
        service: input.text()?,
        tags: input.tags()?,
        instance: input.u64()?,
        status: match input.u8()? {
            ACTIVE => HostStatus::Active,
            DRAINING => HostStatus::Draining,
            REMOVED => HostStatus::Removed,
            _ => return Err(Malformed("unknown status of a host")),
        },
        former: input.list(Input::u64)?,
    })
}

fn replica(input: &mut Input<'_>, hosts: &[Host]) -> Result<Replica, Malformed> {
    let id = input.u64()?;
    let host = hosts.get(input.u32()? as usize).ok_or(Malformed("a replica on no host"))?;
    let role = match input.u8()? {
        VOTER => Role::Voter,
        LEARNER => Role::Learner,
        LEAVING => Role::Leaving,
        _ => return Err(Malformed("unknown role of a replica")),
    };
    Ok(Replica { id, host: host.id.clone(), role })
}
