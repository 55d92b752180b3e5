//! What a host knows about itself, as JSON. For people: not stable between versions.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};
use z4_host::Snapshot;
use z4_proto::status::Failure;
use z4_proto::v1;

use crate::call::Call;
use crate::door::Door;
use crate::status;

/// Queues that are shown: those with the largest backlogs.
const QUEUES_MAX: usize = 1_000;

pub(super) async fn diagnostic(
    call: Call<'_>,
    _: v1::DiagnosticRequest,
) -> Result<v1::DiagnosticResponse, Failure> {
    let snapshot = call.read(call.handle().snapshot()).await?;
    let json = serde_json::to_string_pretty(&json(call.door, &snapshot))
        .map_err(|error| status::defect(&error.to_string()))?;
    Ok(v1::DiagnosticResponse { json })
}

fn json(door: &Door, snapshot: &Snapshot) -> Value {
    let handle = door.handle();
    let registry = handle.registry();
    let identity = handle.identity();
    let threads = handle.runner_metrics();
    let tasks = handle.task_metrics();
    let mut queues: Vec<_> = snapshot.queues.iter().collect();
    queues.sort_by_key(|(_, stats)| std::cmp::Reverse(stats.waiting + stats.leased));
    json!({
        "host": identity.host.to_string(),
        "cluster": { "name": identity.cluster_name, "id": identity.cluster.to_string() },
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": door.uptime().as_secs_f64(),
        "stopping": door.is_stopping(),
        "hosts": registry.members().map(|host| json!({
            "id": host.id.to_string(),
            "address": host.address,
            "service_address": host.service,
            "status": host.status.to_string(),
        })).collect::<Vec<_>>(),
        "clocks": handle.peer_clocks().into_iter().map(|(peer, clock)| json!({
            "peer": peer.to_string(),
            "offset_ms": clock.offset_ms,
            "uncertainty_ms": clock.uncertainty_ms,
            "age_ms": clock.age_ms,
            "off": clock.off,
        })).collect::<Vec<_>>(),
        "shards": snapshot.groups.iter().map(|group| json!({
            "id": group.shard.0,
            "replica": group.replica,
            "leading": group.leading,
            "leader_replica": group.leader,
            "term": group.term.0,
            "commit": group.commit.0,
            "applied": group.applied.0,
            "durable": group.durable.0,
            "last": group.last.0,
            "digest": format!("{:016x}", group.digest),
            "voters": group.membership.voters,
            "learners": group.membership.learners,
            "changing": group.membership.is_joint(),
            "progress": group.progress.iter().map(|peer| json!({
                "replica": peer.replica,
                "host": registry.host_of_replica(group.shard, peer.replica).map(|host| host.id.to_string()),
                "matched": peer.matched.0,
                "behind": group.last.0.saturating_sub(peer.matched.0),
                "state": format!("{:?}", peer.state).to_lowercase(),
                "active": peer.recent_active,
                "learner": peer.learner,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "queues_total": snapshot.queues_total,
        "queues": queues.iter().take(QUEUES_MAX).map(|(name, stats)| json!({
            "name": name.as_str(),
            "shard": registry.shard_of(name).0,
            "waiting": stats.waiting,
            "leased": stats.leased,
            "dead": stats.dead,
            "pushed": stats.pushed,
            "deliveries": stats.deliveries,
            "redelivered": stats.redelivered,
            "acked": stats.acked,
            "failed": stats.failed,
            "lease_expired": stats.lease_expired,
            "expired": stats.expired,
            "cancelled": stats.cancelled,
        })).collect::<Vec<_>>(),
        "since_start": {
            "pushed": tasks.pushed.load(Relaxed),
            "delivered": tasks.delivered.load(Relaxed),
            "redelivered": tasks.redelivered.load(Relaxed),
            "acked": tasks.acked.load(Relaxed),
            "failed": tasks.failed.load(Relaxed),
            "dead": tasks.dead.load(Relaxed),
            "stale": tasks.stale.load(Relaxed),
        },
        "storage": {
            "base_bytes": threads.base_bytes.load(Relaxed),
            "delta_bytes": threads.delta_bytes.load(Relaxed),
            "log_segments": threads.log_segments.load(Relaxed),
            "log_bytes_written": threads.log_bytes.load(Relaxed),
            "checkpoint_failures": threads.checkpoint_failures.load(Relaxed),
            "stalled_ms": threads.stalled_ns.load(Relaxed) / 1_000_000,
        },
        "calls": door.bodies().calls(),
        "message_bytes": door.bodies().used(),
        "request_bytes": handle.request_bytes(),
        "wall_ahead_ms": threads.wall_ahead_ms.load(Relaxed).cast_signed(),
    })
}
