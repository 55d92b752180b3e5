//! What the scheduler promises, one claim a test.

use std::collections::BTreeMap;

use z4_types::{Duration, Millis};

use super::world::World;
use crate::Rate;
use crate::fair::{GroupLimits, Limits, Number, Reason};

/// Who got how many of the next `picks`, each acked at once.
fn shares(world: &mut World, picks: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..picks {
        let lease = world.lease(1).pop().expect("all are backlogged");
        *shares.entry(lease.group.clone()).or_default() += 1;
        world.ack(&lease);
    }
    shares
}

fn fill(world: &mut World, group: &str, tasks: usize) {
    for _ in 0..tasks {
        world.push(group, 5, 0);
    }
}

fn explain(world: &World, group: &str) -> Reason {
    let number = world.groups.number(group).expect("it has a number");
    world.groups.explain(number, world.now).expect("it has a number")
}

#[test]
fn shares_follow_weights_within_one_percent() {
    let mut world = World::new();
    for weight in 1..=10 {
        let group = format!("w{weight}");
        world.weight(&group, weight);
        fill(&mut world, &group, 2_000);
    }
    let shares = shares(&mut world, 10_000);
    for weight in 1..=10_usize {
        let (got, wanted) = (shares[&format!("w{weight}")], 10_000 * weight / 55);
        assert!(got.abs_diff(wanted) * 100 <= wanted + 100, "weight {weight}: {got} of {wanted}");
    }
}

#[test]
fn shares_hold_while_more_urgent_tasks_come_between() {
    // One virtual time for all classes would be pushed ahead by the urgent ones, and make these two equal.
    let mut world = World::new();
    world.weight("heavy", 10);
    fill(&mut world, "heavy", 1_000);
    fill(&mut world, "light", 1_000);
    let mut heavy = 0;
    for _ in 0..550 {
        world.push("urgent", 0, 0);
        assert_eq!(world.one().as_deref(), Some("urgent"));
        heavy += usize::from(world.one().as_deref() == Some("heavy"));
    }
    assert!((495..=505).contains(&heavy), "{heavy}");
}

#[test]
fn a_tenant_with_ten_tasks_does_not_wait_for_one_with_thousands() {
    let mut world = World::new();
    fill(&mut world, "big", 5_000);
    shares(&mut world, 1_000);
    fill(&mut world, "small", 10);
    let next = shares(&mut world, 21);
    assert_eq!(next["small"], 10);
}

#[test]
fn a_group_that_was_away_gets_no_credit() {
    let mut world = World::new();
    fill(&mut world, "a", 2_000);
    fill(&mut world, "b", 10);
    shares(&mut world, 20);
    // Gone for a thousand tasks, and forgotten.
    world.now = Millis(10_000);
    world.forget();
    assert_eq!(world.groups.number("b"), None);
    shares(&mut world, 1_000);
    fill(&mut world, "b", 500);
    let next = shares(&mut world, 100);
    assert!(next["b"] <= 51, "{next:?}");
    // Held back by its limit for a while: the same.
    world.slow("b", 20_000);
    shares(&mut world, 400);
    world.now = Millis(20_000);
    let next = shares(&mut world, 100);
    assert!(next["b"] <= 51, "{next:?}");
}

#[test]
fn a_group_that_pushes_when_its_last_is_done_gets_its_share_only() {
    let mut world = World::new();
    for group in ["a", "b", "c"] {
        fill(&mut world, group, 1_000);
    }
    let mut sly = 0;
    for _ in 0..400 {
        if world
            .groups
            .number("sly")
            .is_none_or(|number| world.groups.get(number).is_none_or(|g| !g.is_open()))
        {
            world.push("sly", 5, 0);
        }
        let lease = world.lease(1).pop().expect("tasks wait");
        sly += usize::from(lease.group == "sly");
        world.ack(&lease);
    }
    assert!((99..=101).contains(&sly), "{sly}");
}

#[test]
fn new_groups_without_end_do_not_starve_an_old_one() {
    let mut world = World::new();
    fill(&mut world, "aa", 1);
    fill(&mut world, "zz", 3);
    assert_eq!(world.one().as_deref(), Some("aa"));
    // Each comes with the smallest number and the tag of a newcomer; but "zz" has been due for longer.
    let mut served = 0;
    for round in 0..100 {
        world.push(&format!("new{round}"), 5, world.now.0);
        world.now = world.now + Duration(10_000);
        world.forget();
        let lease = world.lease(1).pop().expect("tasks wait");
        served += usize::from(lease.group == "zz");
        world.ack(&lease);
    }
    assert!(served >= 1, "the first of its tasks is served with the newcomers of its time");
}

#[test]
fn tasks_without_a_group_are_one_more_group() {
    let mut world = World::new();
    fill(&mut world, "a", 100);
    fill(&mut world, "", 100);
    world.weight("a", 3);
    assert_eq!(shares(&mut world, 100)[""], 25);
}

#[test]
fn priority_comes_before_fairness() {
    let mut world = World::new();
    fill(&mut world, "a", 10);
    shares(&mut world, 5);
    world.push("b", 6, 0);
    world.push("a", 4, 0);
    let order: Vec<_> = world.lease(7).into_iter().map(|lease| (lease.group, lease.priority)).collect();
    assert_eq!(order[0], ("a".into(), 4));
    assert_eq!(order[6], ("b".into(), 6));
}

#[test]
fn waiting_makes_urgent() {
    let mut world = World::new();
    world.ageing = Some(Duration(1_000));
    world.retune();
    let old = world.push("low", 3, 1_000);
    for second in 1..=4_u64 {
        world.now = Millis(1_000 + second * 1_000);
        // Always something fresh that is more urgent by its priority.
        world.push("high", 1, world.now.0);
        let lease = world.lease(1).pop().expect("tasks wait");
        if lease.id == old {
            assert_eq!(second, 2, "after two spans it stands in class 1, and is due for longer");
            return;
        }
    }
    panic!("it never aged");
}

#[test]
fn a_limit_of_tasks_at_a_time_holds() {
    let mut world = World::new();
    world.concurrency("a", 3);
    fill(&mut world, "a", 10);
    let leases = world.lease(10);
    assert_eq!(leases.len(), 3);
    assert_eq!(explain(&world, "a"), Reason::Full { leased: 3, limit: 3, serial: false });
    assert_eq!(world.groups.next_time(world.now), None);
    world.ack(&leases[0]);
    assert_eq!(world.lease(10).len(), 1);
    // Lowered under running tasks: nothing more until enough have ended. Raised: at once.
    world.concurrency("a", 1);
    world.ack(&leases[1]);
    assert_eq!(world.lease(10).len(), 0);
    world.concurrency("a", 4);
    assert_eq!(world.lease(10).len(), 2);
}

#[test]
fn a_serial_group_never_overlaps_and_keeps_its_order() {
    let mut world = World::new();
    world.limit("doc", GroupLimits { serial: true, ..GroupLimits::default() });
    let first = world.push("doc", 5, 10);
    let second = world.push("doc", 5, 20);
    let lease = world.lease(9);
    assert_eq!(lease.len(), 1);
    assert_eq!(lease[0].id, first);
    // It fails: its place stays, its delay slows the group.
    world.slow("doc", 5_000);
    world.retry(&lease[0], 10);
    assert_eq!(world.lease(9), []);
    assert_eq!(explain(&world, "doc"), Reason::Slowed { until: Millis(5_000) });
    world.now = Millis(5_000);
    let lease = world.lease(9);
    assert_eq!((lease.len(), lease[0].id), (1, first));
    assert_eq!(explain(&world, "doc"), Reason::Full { leased: 1, limit: 1, serial: true });
    world.ack(&lease[0]);
    assert_eq!(world.lease(9)[0].id, second);
}

#[test]
fn a_rate_survives_the_end_of_its_group() {
    let mut world = World::new();
    let rate = Rate { thousandths: 20, burst: 1 };
    let limits = Limits { concurrency: None, rate: Some(rate) };
    world.limit("a", GroupLimits { limits, ..GroupLimits::default() });
    let mut served = 0;
    for second in 0..600 {
        world.now = Millis(1_000 + second * 1_000);
        world.forget();
        world.rebuild();
        if world.groups.number("a").is_none_or(|number| world.groups.get(number).is_none_or(|g| !g.is_open()))
        {
            world.push("a", 5, 0);
        }
        for lease in world.lease(10) {
            served += 1;
            world.ack(&lease);
        }
    }
    assert_eq!(served, 12, "one every fifty seconds");
    assert_eq!(explain(&world, "a"), Reason::Rate { until: Millis(601_000) });
    assert_eq!(world.groups.next_time(world.now), Some(Millis(601_000)));
}

#[test]
fn a_slowed_group_holds_back_nobody_else() {
    let mut world = World::new();
    fill(&mut world, "a", 5);
    fill(&mut world, "b", 5);
    world.slow("a", 9_000);
    let groups: Vec<_> = world.lease(20).into_iter().map(|lease| lease.group).collect();
    assert_eq!(groups, vec!["b"; 5]);
    assert_eq!(world.groups.next_time(world.now), Some(Millis(9_000)));
}

#[test]
fn every_group_says_what_holds_it() {
    let mut world = World::new();
    world.push("a", 5, 7_000);
    assert_eq!(explain(&world, "a"), Reason::NotDue { until: Millis(7_000) });
    assert_eq!(world.groups.next_time(world.now), Some(Millis(7_000)));
    world.push("b", 5, 0);
    world.push("c", 5, 1);
    assert_eq!(explain(&world, "b"), Reason::Ready { class: 5, ahead: 0 });
    assert_eq!(explain(&world, "c"), Reason::Ready { class: 5, ahead: 1 });
    assert_eq!(world.groups.next_time(world.now), Some(world.now));
    let lease = world.lease(1);
    assert_eq!(explain(&world, "b"), Reason::Empty);
    world.ack(&lease[0]);
    assert_eq!(world.groups.explain(Number(77), world.now), None);
}

#[test]
fn numbers_are_used_again_and_groups_forgotten() {
    let mut world = World::new();
    for round in 0..100_u64 {
        world.now = Millis(10_000 * (round + 1));
        world.forget();
        assert_eq!(world.groups.len(), 0);
        assert_eq!(world.groups.next_forget(), None);
        for group in 0..10 {
            world.push(&format!("{round}-{group}"), 5, 0);
        }
        for lease in world.lease(100) {
            assert!(lease.number <= Number(10));
            world.ack(&lease);
        }
        world.check();
    }
}

#[test]
fn a_thousand_picks_over_a_hundred_groups_are_few_scans() {
    let mut world = World::new();
    for group in 0..100 {
        fill(&mut world, &format!("g{group}"), 50);
    }
    assert_eq!(world.lease(1_000).len(), 1_000);
    assert!(world.scans <= 101, "{} scans", world.scans);
    assert!(world.read <= 1_300, "{} rows read", world.read);
    // Unequal weights: what the first guess missed is read in growing steps.
    (world.scans, world.read) = (0, 0);
    world.weight("g7", 100);
    assert_eq!(world.lease(1_000).len(), 1_000);
    assert!(world.scans <= 120, "{} scans", world.scans);
}

#[test]
fn rows_that_contradict_each_other_stop_the_replica() {
    let mut world = World::new();
    let now = world.now;
    let id = world.push("a", 5, 3);
    let number = world.groups.number("a").expect("open");
    assert!(world.groups.ended(number, now).is_err(), "nothing is leased");
    assert!(world.groups.ended(Number(9), now).is_err(), "no such group");
    assert!(world.groups.remove(number, 5, (2, id), || Ok(None), now).is_err(), "before the head");
    assert!(world.groups.remove(number, 5, (4, id), || Ok(None), now).is_err(), "the head is the only one");
    assert!(world.groups.remove(number, 6, (3, id), || Ok(None), now).is_err(), "no such line");
    let choice = world.groups.next(now).expect("due");
    assert!(world.groups.charge(&choice, Some((9, 9)), now).is_err(), "one task, and one behind it");
}

#[test]
fn damaged_rows_are_refused() {
    let mut world = World::new();
    world.push("a", 5, 3);
    world.push("a", 6, 3);
    world.lease(1);
    for (number, row) in world.rows.clone() {
        for len in 0..row.len() {
            world.rows.insert(number, row[..len].to_vec());
            assert!(rebuilds(&world).is_err(), "row {number} cut at {len}");
        }
        let mut longer = row.clone();
        longer.push(0);
        for damaged in [longer, [&[9], &row[1..]].concat()] {
            world.rows.insert(number, damaged);
            assert!(rebuilds(&world).is_err());
        }
        world.rows.insert(number, row);
    }
    assert!(rebuilds(&world).is_ok());
    let row = world.rows[&1].clone();
    world.rows.insert(u32::MAX, row.clone());
    assert!(rebuilds(&world).is_err(), "a number past all");
    world.rows.remove(&u32::MAX);
    world.rows.insert(2, row);
    assert!(rebuilds(&world).is_err(), "one name twice");
}

fn rebuilds(world: &World) -> Result<(), crate::Fault> {
    let rows = world.rows.iter().map(|(number, row)| (Number(*number), &**row));
    let limits = |_: &str| std::sync::Arc::new(GroupLimits::default());
    crate::fair::Groups::rebuild(None, rows, limits, world.now)?;
    Ok(())
}
