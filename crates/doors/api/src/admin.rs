//! Service `z4.v1.Admin`: who is in the cluster, how each shard stands, what the host knows about itself.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};
use tonic::{Request, Response, Status, async_trait};
use z4_host::Snapshot;
use z4_proto::convert::{pb_duration, timestamp};
use z4_proto::v1;
use z4_proto::v1::admin_server::Admin;
use z4_types::{Duration, ShardId};

use crate::deadline::Deadline;
use crate::door::Door;
use crate::status;

/// Queues a diagnostic shows: those with the largest backlogs.
const DIAGNOSTIC_QUEUES_MAX: usize = 1_000;

/// See the module essay.
pub(crate) struct AdminService {
    door: Door,
}

impl AdminService {
    pub(crate) fn new(door: Door) -> Self {
        Self { door }
    }

    fn info(&self, snapshot: &Snapshot) -> v1::InfoResponse {
        let handle = self.door.handle();
        let registry = handle.registry();
        let identity = handle.identity();
        let leader_of = |shard: ShardId, replica: u64| registry.host_of_replica(shard, replica);
        let shards = snapshot.groups.iter().map(|group| v1::Shard {
            id: group.shard.0,
            leader: leader_of(group.shard, group.leader).map(|host| host.id.to_string()).unwrap_or_default(),
            term: group.term.0,
            commit: group.commit.0,
            applied: group.applied.0,
            last_index: group.last.0,
            digest: format!("{:016x}", group.digest),
        });
        let registry_leader = snapshot
            .groups
            .iter()
            .find(|group| group.shard.0 == 0)
            .and_then(|g| leader_of(g.shard, g.leader));
        v1::InfoResponse {
            server_id: identity.host.to_string(),
            leader_address: registry_leader.map(|host| host.address.clone()).unwrap_or_default(),
            members: registry
                .members()
                .map(|host| v1::Member { id: host.id.to_string(), address: host.address.clone() })
                .collect(),
            cluster_name: identity.cluster_name.clone(),
            cluster_id: identity.cluster.to_string(),
            shards: shards.collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: Some(pb_duration(self.uptime())),
        }
    }

    fn uptime(&self) -> Duration {
        Duration(u64::try_from(self.door.uptime().as_millis()).unwrap_or(u64::MAX))
    }

    fn diagnostic(&self, snapshot: &Snapshot) -> Value {
        let handle = self.door.handle();
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
            "uptime_seconds": self.door.uptime().as_secs_f64(),
            "stopping": self.door.is_stopping(),
            "hosts": registry.members().map(|host| json!({
                "id": host.id.to_string(),
                "address": host.address,
            })).collect::<Vec<_>>(),
            "shards": snapshot.groups.iter().map(|group| json!({
                "id": group.shard.0,
                "leading": group.leading,
                "leader_replica": group.leader,
                "term": group.term.0,
                "commit": group.commit.0,
                "applied": group.applied.0,
                "durable": group.durable.0,
                "last": group.last.0,
                "digest": format!("{:016x}", group.digest),
            })).collect::<Vec<_>>(),
            "queues_total": snapshot.queues_total,
            "queues": queues.iter().take(DIAGNOSTIC_QUEUES_MAX).map(|(name, stats)| json!({
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
            "calls": self.door.bodies().calls(),
            "message_bytes": self.door.bodies().used(),
            "request_bytes": handle.request_bytes(),
            "wall_ahead_ms": threads.wall_ahead_ms.load(Relaxed).cast_signed(),
        })
    }
}

#[async_trait]
impl Admin for AdminService {
    async fn info(&self, request: Request<v1::InfoRequest>) -> Result<Response<v1::InfoResponse>, Status> {
        let snapshot = Deadline::of(request.metadata()).read(self.door.handle().snapshot()).await?;
        Ok(Response::new(self.info(&snapshot)))
    }

    async fn ping(&self, _: Request<v1::PingRequest>) -> Result<Response<v1::PingResponse>, Status> {
        let server_id = self.door.handle().identity().host.to_string();
        Ok(Response::new(v1::PingResponse { server_id, time: Some(timestamp(self.door.wall())) }))
    }

    async fn diagnostic(
        &self,
        request: Request<v1::DiagnosticRequest>,
    ) -> Result<Response<v1::DiagnosticResponse>, Status> {
        let snapshot = Deadline::of(request.metadata()).read(self.door.handle().snapshot()).await?;
        let json = serde_json::to_string_pretty(&self.diagnostic(&snapshot))
            .map_err(|error| status::defect(&error.to_string()))?;
        Ok(Response::new(v1::DiagnosticResponse { json }))
    }
}
