//! Tests of the whole machine: golden scripts, properties of the plan, a model of the groups, bytes.

mod bytes;
mod cluster;
mod forming;
mod placement;
mod script;

use proptest::prelude::*;
use z4_types::HostId;

use crate::{Command, Host, Registry};

/// Hosts the generated commands are about.
const HOSTS: u8 = 6;

fn host(n: u8) -> HostId {
    HostId(format!("peer{n}"))
}

fn address(n: u8) -> String {
    format!("peer{n}:6356")
}

fn registry(task_shards: u32) -> Registry {
    Registry::form(z4_types::ClusterId(7), "z4", Host::new(host(0), address(0)), task_shards)
}

/// Commands an operator or a host could give; about one in ten is wrong by itself.
fn command() -> impl Strategy<Value = Command> {
    let id = || (0..HOSTS).prop_map(host);
    let at = || prop_oneof![9 => (0..HOSTS).prop_map(address), 1 => Just("nowhere".to_owned())];
    let placed = || (0..HOSTS, 0..20u8).prop_map(|(n, odd)| (host(n), address(if odd == 0 { 0 } else { n })));
    let instance = || 0..12u64;
    prop_oneof![
        1 => (id(), at()).prop_map(|(host, address)| Command::SetAddress { host, address, service: String::new() }),
        2 => (placed(), instance()).prop_map(|((host, address), instance)| Command::Announce {
            host,
            instance,
            address,
            service: "door:6355".into(),
            tags: [("zone".to_owned(), "a".to_owned())].into(),
        }),
        6 => (placed(), proptest::option::of(instance()))
            .prop_map(|((host, address), instance)| Command::AddHost { host, address, instance }),
        2 => id().prop_map(|host| Command::RemoveHost { host }),
        1 => (placed(), instance())
            .prop_map(|((host, address), instance)| Command::ReplaceHost { host, instance, address }),
        1 => (0..6u32).prop_map(|replication| Command::SetReplication { replication }),
        2 => id().prop_map(|host| Command::DrainHost { host }),
        2 => id().prop_map(|host| Command::UndrainHost { host }),
        2 => (pattern(), proptest::collection::vec(any::<u8>(), 0..4))
            .prop_map(|(pattern, settings)| Command::SetPolicy { pattern, settings }),
        1 => pattern().prop_map(|pattern| Command::DeletePolicy { pattern }),
        1 => (0..5u32, proptest::collection::vec(0..40u64, 0..4))
            .prop_map(|(shard, replicas)| Command::Left { shard: z4_types::ShardId(shard), replicas }),
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![4 => (0..3u8).prop_map(|n| format!("queue{n}/*")), 1 => Just(String::new())]
}

/// What every group reports when it has let go of all that shall leave.
fn everything_left(registry: &Registry) -> Vec<Command> {
    let leaving = |shard: &crate::Shard| {
        shard.with_role(crate::Role::Leaving).map(|replica| replica.id).collect::<Vec<_>>()
    };
    let reports = registry.shards.iter().map(|shard| (shard.id, leaving(shard)));
    reports
        .filter(|(_, replicas)| !replicas.is_empty())
        .map(|(shard, replicas)| Command::Left { shard, replicas })
        .collect()
}

/// Reports until nothing leaves any more: a report may free a place that a better plan uses.
fn settle(registry: &mut Registry) {
    for _ in 0..20 {
        let reports = everything_left(registry);
        if reports.is_empty() {
            return;
        }
        for report in reports {
            registry.apply(&report).expect("what leaves may be reported");
        }
    }
    panic!("the plan does not come to rest: {registry:?}");
}
