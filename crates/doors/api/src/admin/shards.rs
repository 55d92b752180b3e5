//! ListShards: where the replicas of every shard shall stand, and who leads it.

use z4_host::Route;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::{HostId, ShardId};

use crate::call::Call;
use crate::door::Door;

// Awaits nothing, the registry is at hand; but the dispatch is the same for all.
pub(super) async fn list(
    call: Call<'_>,
    _: v1::ListShardsRequest,
) -> Result<v1::ListShardsResponse, Failure> {
    let registry = call.handle().registry();
    let shards = registry.shards.iter().map(|shard| v1::ShardPlacement {
        id: shard.id.0,
        leader: leader_of(call.door, shard.id).map(|host| host.to_string()).unwrap_or_default(),
        replicas: shard
            .replicas
            .iter()
            .map(|replica| v1::ReplicaPlacement {
                id: replica.id,
                host: replica.host.to_string(),
                role: role(&replica.role.to_string()).into(),
            })
            .collect(),
    });
    Ok(v1::ListShardsResponse { shards: shards.collect() })
}

/// Returns who leads `shard`, as far as this host knows.
pub(super) fn leader_of(door: &Door, shard: ShardId) -> Option<HostId> {
    match door.route(shard) {
        Route::Here => Some(door.handle().identity().host.clone()),
        Route::There { host, .. } => Some(host),
        Route::Nowhere => None,
    }
}

/// Returns a replica's role by its name: the registry's type is not known to doors, its words are.
pub(super) fn role(name: &str) -> v1::ReplicaRole {
    match name {
        "voter" => v1::ReplicaRole::Voter,
        "learner" => v1::ReplicaRole::Learner,
        "leaving" => v1::ReplicaRole::Leaving,
        _ => v1::ReplicaRole::Unspecified,
    }
}
