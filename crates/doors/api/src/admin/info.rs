//! Info: the host, its cluster, and its replicas.

use z4_host::Snapshot;
use z4_proto::convert::pb_duration;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::{Duration, ShardId};

use super::shards::{leader_of, role};
use crate::call::Call;
use crate::door::Door;

/// The registry.
const REGISTRY: ShardId = ShardId(0);

pub(super) async fn info(call: Call<'_>, _: v1::InfoRequest) -> Result<v1::InfoResponse, Failure> {
    let snapshot = call.read(call.handle().snapshot()).await?;
    Ok(of(call.door, &snapshot))
}

/// Returns what a host knows of itself and its cluster.
pub(super) fn of(door: &Door, snapshot: &Snapshot) -> v1::InfoResponse {
    let handle = door.handle();
    let registry = handle.registry();
    let identity = handle.identity();
    let leader = leader_of(door, REGISTRY);
    let leader_address = leader.as_ref().and_then(|leader| registry.host(leader));
    let members = registry.members().map(|host| v1::Member {
        id: host.id.to_string(),
        address: host.address.clone(),
        service_address: host.service.clone(),
        role: registry
            .replica_on(REGISTRY, &host.id)
            .map_or(v1::ReplicaRole::Unspecified, |replica| role(&replica.role.to_string()))
            .into(),
        leader: leader.as_ref() == Some(&host.id),
        draining: !host.is_active(),
    });
    let shards = snapshot.groups.iter().map(|group| {
        let leader = registry.host_of_replica(group.shard, group.leader);
        let role = match &group.membership {
            members if members.is_voter(group.replica) => v1::ReplicaRole::Voter,
            members if members.is_learner(group.replica) => v1::ReplicaRole::Learner,
            _ => v1::ReplicaRole::Unspecified,
        };
        let digests = group
            .digests
            .iter()
            .map(|(index, digest)| v1::StateDigest { index: index.0, digest: format!("{digest:016x}") });
        v1::Shard {
            id: group.shard.0,
            leader: leader.map(|host| host.id.to_string()).unwrap_or_default(),
            term: group.term.0,
            commit: group.commit.0,
            applied: group.applied.0,
            last_index: group.last.0,
            digest: format!("{:016x}", group.digest),
            replica: group.replica,
            role: role.into(),
            digests: digests.collect(),
        }
    });
    v1::InfoResponse {
        server_id: identity.host.to_string(),
        leader_address: leader_address.map(|host| host.address.clone()).unwrap_or_default(),
        members: members.collect(),
        cluster_name: identity.cluster_name.clone(),
        cluster_id: identity.cluster.to_string(),
        shards: shards.collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: Some(pb_duration(Duration(u64::try_from(door.uptime().as_millis()).unwrap_or(u64::MAX)))),
    }
}
