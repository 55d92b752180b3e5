//! A host whose first start met an error of the disk: once it starts, it keeps what it is, even through a loss of power.

use std::path::Path;

use z4_sim::checks::Digests;
use z4_sim::shell::Shell;
use z4_sim::swarm::Swarm;
use z4_sim::{Op, SimClock, SimDisk};
use z4_types::Millis;

/// Calls of a kind that a first start makes at most.
const CALLS_MAX: u64 = 80;

/// An fsync that failed leaves a name in the cache that is not on the disk; the next start finds it and must not
/// build on it before it is.
#[test]
fn a_start_after_a_failed_one_makes_durable_what_it_found() {
    let swarm = Swarm::draw(1);
    for op in [Op::SyncDir, Op::Sync, Op::Rename, Op::Write, Op::SetLen, Op::Open] {
        for nth in 1..=CALLS_MAX {
            let (disk, clock, digests) = (SimDisk::new(nth), SimClock::new(), Digests::default());
            let config = swarm.config(Path::new("host"));
            let start = || Shell::start(&swarm, &config, &disk, &clock, &digests, true, Millis(0));
            disk.fail_nth(op, nth);
            if start().is_ok() {
                break;
            }
            disk.kill();
            disk.restart();
            disk.disarm();
            let mut shell = start().unwrap_or_else(|why| panic!("{op:?} {nth}: no second start: {why}"));
            shell.rest().expect("the disk is healthy now");
            disk.crash();
            drop(shell);
            disk.restart();
            let mut shell =
                start().unwrap_or_else(|why| panic!("{op:?} {nth}: no start after the crash: {why}"));
            shell.rest().expect("the disk is healthy now");
            assert_eq!(digests.check(), Ok(()), "{op:?} {nth}");
            assert!(shell.is_recovered(), "{op:?} {nth}");
        }
    }
}
