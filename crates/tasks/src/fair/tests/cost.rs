//! What a million groups cost. A measurement, run by hand:
//! `cargo test --release -p z4-tasks fair::tests::cost -- --ignored --nocapture`. Linux only: it reads /proc.

use std::hint::black_box;
use std::sync::Arc;

use z4_types::Millis;

use crate::Rate;
use crate::fair::{GroupLimits, Groups, Limits, Number};

const PICKS: u64 = 500_000;

/// Nanoseconds this thread was on a processor: other work on the machine does not count.
fn spent() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}

fn timed<T>(what: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let start = spent();
    let result = work();
    let nanos = spent() - start;
    println!("  {what}: {} ns each, {} ms for {count}", nanos / count.max(1), nanos / 1_000_000);
    result
}

/// Resident bytes of this process; 0 where there is no /proc.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

/// A line whose heads count up: what storage would say is behind a head.
fn behind(point: (u64, u128)) -> Option<(u64, u128)> {
    Some((point.0, point.1 + (1 << 40)))
}

fn measure(count: u64, limits: GroupLimits) {
    println!("{count} groups, {limits:?}");
    let limits = Arc::new(limits);
    let names: Vec<String> = (0..count).map(|group| format!("tenant-{:08}", group * 7_919 % count)).collect();
    let before = resident();
    let mut groups = Groups::new(None);
    let now = Millis(2_000_000);
    timed("push of a first task", count, || {
        for (id, name) in (0_u128..).zip(&names) {
            groups.push(name, || Arc::clone(&limits), 5, (1_000_000, id), now).expect("pushed");
        }
    });
    // Nothing where an earlier round left memory to use again.
    println!("  memory: {} bytes a group", resident().saturating_sub(before) / count);
    let more = (PICKS / count).max(1);
    timed("push of a further task", count * more, || {
        for round in 1..=u128::from(more) {
            for (id, name) in (round << 40..).zip(&names) {
                groups.push(name, || Arc::clone(&limits), 5, (1_000_000, id), now).expect("pushed");
            }
        }
    });
    let mut rows: Vec<(Number, Vec<u8>)> = Vec::new();
    timed("row", count, || groups.write(|number, row| rows.push((number, row.unwrap_or_default().to_vec()))));
    let mut leases = Vec::new();
    timed("choice and charge", PICKS, || {
        for _ in 0..PICKS {
            let choice = groups.next(now).expect("all are due");
            groups.charge(&choice, behind(choice.head), now).expect("charged");
            leases.push(choice.group);
        }
    });
    timed("end of a lease", PICKS, || {
        for group in &leases {
            groups.ended(*group, now).expect("leased");
        }
    });
    timed("explain of one far behind", 1_000, || {
        for number in 0..1_000 {
            black_box(groups.explain(Number(1 + number * 7 % 100), now));
        }
    });
    drop(groups);
    let groups = timed("rebuild", count, || {
        let rows = rows.iter().map(|(number, row)| (*number, &**row));
        Groups::rebuild(None, rows, |_| Arc::clone(&limits), now).expect("own rows")
    });
    drop(groups);
    let mut groups = Groups::new(None);
    for (id, name) in (0_u128..).zip(&names) {
        groups.push(name, || Arc::clone(&limits), 5, (3_000_000, id), now).expect("pushed");
    }
    timed("promotion of all at one moment", count, || black_box(groups.next(Millis(3_000_000))));
}

#[test]
#[ignore = "a measurement"]
fn a_choice_among_many_groups() {
    let rate = Rate { thousandths: 10_000, burst: 10 };
    let limited = Limits { concurrency: Some(100), rate: Some(rate) };
    measure(100, GroupLimits::default());
    measure(1_000_000, GroupLimits::default());
    measure(1_000_000, GroupLimits { limits: limited, ..GroupLimits::default() });
}
