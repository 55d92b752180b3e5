//! The controller with scripted groups: a host's part in growing, shrinking and moving.

use z4_consensus::{Membership, PeerProgress, Replication};
use z4_registry::Host;
use z4_types::{ClusterId, Index, Term};

use super::*;
use crate::seats::{Origin, Seat};

/// Groups that say what a test tells them to, and remember what was done to them.
#[derive(Default)]
struct Script {
    members: BTreeMap<ShardId, Members>,
    routes: Vec<(ShardId, BTreeMap<u64, HostId>)>,
    changes: Vec<(ShardId, Change)>,
    transfers: Vec<(ShardId, u64)>,
    removing: BTreeSet<ShardId>,
}

impl Groups for Script {
    fn members(&self, shard: ShardId) -> Option<Members> {
        self.members.get(&shard).cloned()
    }

    fn set_routes(&mut self, shard: ShardId, routes: &BTreeMap<u64, HostId>) {
        self.routes.push((shard, routes.clone()));
    }

    fn change_members(&mut self, shard: ShardId, change: &Change) -> Result<(), Error> {
        self.changes.push((shard, change.clone()));
        Ok(())
    }

    fn transfer_leader(&mut self, shard: ShardId, to: u64) -> Result<(), Error> {
        self.transfers.push((shard, to));
        Ok(())
    }

    fn is_removing(&self, shard: ShardId) -> bool {
        self.removing.contains(&shard)
    }
}

fn host(name: &str) -> HostId {
    HostId(name.into())
}

/// Host `a` alone, with one task shard: replica 1 of shard 0 and replica 2 of shard 1.
fn registry() -> Registry {
    let mut registry = Registry::form(ClusterId(7), "z4", Host::new(host("a"), "a:1"), 1);
    let announce = Command::Announce {
        host: host("a"),
        instance: 5,
        address: "a:1".into(),
        service: "a:2".into(),
        tags: BTreeMap::new(),
    };
    assert_eq!(registry.apply(&announce), Ok(true));
    registry
}

fn with_b() -> Registry {
    let mut registry = registry();
    let add = Command::AddHost { host: host("b"), address: "b:1".into(), instance: Some(6) };
    assert_eq!(registry.apply(&add), Ok(true));
    registry
}

fn controller(name: &str, instance: u64) -> Controller {
    let (address, service) = (format!("{name}:1"), format!("{name}:2"));
    Controller::new(Announcement { host: host(name), instance, address, service })
}

fn seat(replica: u64, buried: u64) -> Seat {
    Seat { replica, origin: Origin::Formed, buried }
}

fn seats_of_a() -> Seats {
    Seats::from([(ShardId(0), seat(1, 0)), (ShardId(1), seat(2, 0))])
}

/// What the leader `replica` says; `matched` of each other member, by id.
fn leading(replica: u64, membership: Membership, commit: u64, matched: &[(u64, u64)]) -> Members {
    let progress = matched.iter().map(|(id, matched)| PeerProgress {
        replica: *id,
        matched: Index(*matched),
        next: Index(matched + 1),
        state: Replication::Replicate,
        recent_active: true,
        learner: membership.is_learner(*id),
    });
    Members {
        replica,
        leading: true,
        leader: replica,
        term: Term(2),
        commit: Index(commit),
        progress: progress.collect(),
        membership,
        settled: true,
        transferring: false,
    }
}

#[test]
fn a_host_alone_has_nothing_to_do_but_to_announce_what_changed() {
    let mut groups = Script::default();
    groups.members.insert(ShardId(0), leading(1, Membership::single(1), 9, &[(1, 9)]));
    groups.members.insert(ShardId(1), leading(2, Membership::single(2), 9, &[(2, 9)]));
    let mut controller = controller("a", 5);
    assert_eq!(controller.pass(&mut groups, &registry(), &seats_of_a()), []);
    assert_eq!(controller.pass(&mut groups, &Registry::unknown(), &Seats::new()), []);
    assert!(groups.changes.is_empty() && groups.transfers.is_empty());
    assert_eq!(groups.routes.len(), 2, "each group once");
    controller.own.address = "elsewhere:1".into();
    let errands = controller.pass(&mut groups, &registry(), &seats_of_a());
    assert!(
        matches!(&errands[..], [Errand::Command(Command::Announce { address, .. })] if address == "elsewhere:1"),
        "{errands:?}"
    );
    controller.own.instance = 99;
    assert_eq!(controller.pass(&mut groups, &registry(), &seats_of_a()), [], "it may not speak for a");
}

#[test]
fn a_new_host_creates_its_replicas_once_and_its_leader_adds_and_promotes_them() {
    let registry = with_b();
    let (b0, b1) = (registry.replica_on(ShardId(0), &host("b")), registry.replica_on(ShardId(1), &host("b")));
    let (b0, b1) = (b0.expect("is placed").id, b1.expect("is placed").id);
    let mut groups = Script::default();
    let mut newcomer = controller("b", 6);
    newcomer.own.service = String::new();
    let wanted = [Errand::Create(ShardId(0), b0), Errand::Create(ShardId(1), b1)];
    assert_eq!(newcomer.pass(&mut groups, &registry, &Seats::new()), wanted);
    let seats = Seats::from([(ShardId(0), seat(b0, 0)), (ShardId(1), seat(b1, 0))]);
    assert_eq!(newcomer.pass(&mut groups, &registry, &seats), [], "they have seats");
    let buried = Seats::from([(ShardId(0), seat(b0, 0)), (ShardId(1), seat(0, b1))]);
    assert_eq!(newcomer.pass(&mut groups, &registry, &buried), [], "the dead stay buried");
    groups.removing.insert(ShardId(1));
    let older = Seats::from([(ShardId(0), seat(b0, 0)), (ShardId(1), seat(0, 1))]);
    assert_eq!(newcomer.pass(&mut groups, &registry, &older), [], "its predecessor is not gone yet");

    let (mut groups, mut leader) = (Script::default(), controller("a", 5));
    groups.members.insert(ShardId(1), leading(2, Membership::single(2), 500, &[(2, 500)]));
    leader.pass(&mut groups, &registry, &seats_of_a());
    let learner = Change { add_learners: vec![b1], ..Change::default() };
    assert_eq!(groups.changes.pop(), Some((ShardId(1), learner)));
    let membership = Membership { learners: vec![b1], ..Membership::single(2) };
    for (matched, expected) in [(100, None), (499, Some(vec![b1]))] {
        let members = leading(2, membership.clone(), 500, &[(2, 500), (b1, matched)]);
        groups.members.insert(ShardId(1), members);
        leader.pass(&mut groups, &registry, &seats_of_a());
        assert_eq!(groups.changes.pop().map(|(_, change)| change.promote), expected, "matched {matched}");
    }
    let mut unsettled = leading(2, membership, 500, &[(2, 500), (b1, 499)]);
    unsettled.settled = false;
    groups.members.insert(ShardId(1), unsettled);
    leader.pass(&mut groups, &registry, &seats_of_a());
    assert_eq!(groups.changes, [], "a change may be under way");
    let routes = BTreeMap::from([(2, host("a")), (b1, host("b"))]);
    assert_eq!(groups.routes, [(ShardId(1), routes)]);
}

#[test]
fn a_host_that_leaves_hands_over_is_let_go_and_buries() {
    let mut registry = with_b();
    let b1 = registry.replica_on(ShardId(1), &host("b")).expect("is placed").id;
    assert_eq!(registry.apply(&Command::RemoveHost { host: host("a") }), Ok(true));
    let (mut groups, mut leaving) = (Script::default(), controller("a", 5));
    let both = Membership::of(vec![2, b1]);
    groups.members.insert(ShardId(1), leading(2, both.clone(), 9, &[(2, 9), (b1, 9)]));
    leaving.pass(&mut groups, &registry, &seats_of_a());
    assert_eq!(groups.transfers, [(ShardId(1), b1)]);

    let (mut groups, mut next) = (Script::default(), controller("b", 6));
    next.own.service = String::new();
    let seats = Seats::from([(ShardId(0), seat(3, 0)), (ShardId(1), seat(b1, 0))]);
    groups.members.insert(ShardId(1), leading(b1, both, 9, &[(2, 9), (b1, 9)]));
    assert_eq!(next.pass(&mut groups, &registry, &seats), []);
    assert_eq!(groups.changes.pop().map(|(_, change)| change.remove), Some(vec![2]));
    groups.members.insert(ShardId(1), leading(b1, Membership::single(b1), 9, &[(b1, 9)]));
    let left = Command::Left { shard: ShardId(1), replicas: vec![2] };
    assert_eq!(next.pass(&mut groups, &registry, &seats), [Errand::Command(left.clone())]);
    assert_eq!(registry.apply(&left), Ok(true));
    assert_eq!(next.pass(&mut groups, &registry, &seats), []);
    assert_eq!(
        leaving.pass(&mut Script::default(), &registry, &seats_of_a()),
        [Errand::Bury(ShardId(1), 2)],
        "the replica of shard 0 has not left yet"
    );
}

#[test]
fn a_registry_of_before_a_replica_was_placed_does_not_bury_it() {
    let newer = with_b().replica_on(ShardId(1), &host("b")).expect("is placed").id;
    let seats = Seats::from([(ShardId(1), seat(newer, 0))]);
    let errands = controller("b", 6).pass(&mut Script::default(), &registry(), &seats);
    assert_eq!(errands, []);
}

#[test]
fn a_leader_hands_over_to_the_shards_home_when_all_was_quiet_and_home_is_there() {
    let registry = with_b();
    let b0 = registry.replica_on(ShardId(0), &host("b")).expect("is placed").id;
    let b1 = registry.replica_on(ShardId(1), &host("b")).expect("is placed").id;
    let mut controller = controller("a", 5);
    let mut groups = Script::default();
    groups.members.insert(ShardId(0), leading(1, Membership::of(vec![1, b0]), 900, &[(1, 900), (b0, 900)]));
    let mut behind = leading(2, Membership::of(vec![2, b1]), 900, &[(2, 900), (b1, 900)]);
    behind.progress[1].recent_active = false;
    groups.members.insert(ShardId(1), behind.clone());
    let passes = |controller: &mut Controller, groups: &mut Script, count: u32| {
        (0..count).for_each(|_| assert_eq!(controller.pass(groups, &registry, &seats_of_a()), []));
    };
    passes(&mut controller, &mut groups, 2 * HOME_PASSES);
    assert_eq!(groups.transfers, [], "nobody is there to lead");
    behind.progress[1].recent_active = true;
    behind.settled = false;
    groups.members.insert(ShardId(1), behind.clone());
    passes(&mut controller, &mut groups, 1);
    behind.settled = true;
    groups.members.insert(ShardId(1), behind);
    passes(&mut controller, &mut groups, HOME_PASSES);
    assert_eq!(groups.transfers, [], "not quiet for long enough");
    passes(&mut controller, &mut groups, 1);
    assert_eq!(groups.transfers, [(ShardId(1), b1)], "shard 0 is at home");
}

#[test]
fn a_leader_whose_clock_is_off_hands_over_at_once_and_is_given_nothing() {
    let registry = with_b();
    let b1 = registry.replica_on(ShardId(1), &host("b")).expect("is placed").id;
    let mut controller = controller("a", 5);
    let mut groups = Script::default();
    groups.members.insert(ShardId(1), leading(2, Membership::of(vec![2, b1]), 900, &[(2, 900), (b1, 900)]));
    controller.set_astray(BTreeSet::from([host("b")]));
    for _ in 0..3 * HOME_PASSES {
        controller.pass(&mut groups, &registry, &seats_of_a());
    }
    assert_eq!(groups.transfers, [], "b is its home, and b's clock is off");
    controller.set_astray(BTreeSet::from([host("a")]));
    controller.pass(&mut groups, &registry, &seats_of_a());
    assert_eq!(groups.transfers, [(ShardId(1), b1)]);
    groups.transfers.clear();
    controller.set_astray(BTreeSet::from([host("a"), host("b")]));
    groups.members.insert(ShardId(0), leading(1, Membership::of(vec![1]), 900, &[(1, 900)]));
    controller.pass(&mut groups, &registry, &seats_of_a());
    assert_eq!(groups.transfers, [(ShardId(1), b1)], "if all are off they take turns as ever");
}

/// The log may be so short that a replica which has none of it lags by next to nothing.
#[test]
fn a_learner_that_has_acknowledged_nothing_is_not_made_a_voter() {
    let registry = with_b();
    let b1 = registry.replica_on(ShardId(1), &host("b")).expect("is placed").id;
    let learns = Membership { voters: [2].into(), learners: [b1].into(), ..Membership::default() };
    let mut controller = controller("a", 5);
    let mut groups = Script::default();
    for (matched, promoted) in [(0, false), (1, true)] {
        let members = leading(2, learns.clone(), 9, &[(2, 9), (b1, matched)]);
        groups.members.insert(ShardId(1), members);
        controller.pass(&mut groups, &registry, &seats_of_a());
        assert_eq!(groups.changes.iter().any(|(_, change)| change.promote == [b1]), promoted, "{matched}");
    }
}
