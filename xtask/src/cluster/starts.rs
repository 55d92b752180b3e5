//! Hosts that form a cluster together: in a random order, with random delays, from nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use z4_env::{Rng, SeededRng};

use super::fleet::{Ask, Fleet};
use super::processes::{Forming, Processes};

const HOSTS: usize = 3;
/// Longest time from the last start to a leader for each shard.
const FORMED_MAX: Duration = Duration::from_secs(5);
/// Longest delay between two starts, milliseconds.
const DELAY_MS_MAX: u64 = 1_000;

/// Forms `times` clusters.
///
/// # Errors
/// One that is not formed in time.
pub(crate) fn run(binaries: &Path, times: u32, seed: Option<u64>) -> Result<()> {
    let seed = match seed {
        Some(seed) => seed,
        None => u64::from(u32::from_le_bytes(z4_env::entropy()?[..4].try_into().expect("four bytes"))),
    };
    println!("starts: seed {seed}");
    let mut rng = SeededRng::new(seed);
    let mut took = Vec::new();
    for round in 0..times {
        let mut fleet = Processes::new(binaries, HOSTS, Forming::Together)?;
        let mut order: Vec<usize> = (0..HOSTS).collect();
        for last in (1..HOSTS).rev() {
            order.swap(last, usize::try_from(rng.below(last as u64 + 1))?);
        }
        for at in &order {
            fleet.start(*at)?;
            std::thread::sleep(Duration::from_millis(rng.below(DELAY_MS_MAX)));
        }
        let begin = Instant::now();
        for at in 0..HOSTS {
            fleet.wait("a leader for every shard", FORMED_MAX, |fleet| fleet.is_placed(at, HOSTS))?;
        }
        took.push(begin.elapsed());
        ensure!(fleet.members(0)? == HOSTS, "all are members");
        println!(
            "  {}: order {order:?}, every host knows every leader after {} ms",
            round + 1,
            begin.elapsed().as_millis()
        );
    }
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100].as_millis();
    println!("starts: {times} of {times} formed; p50 {} ms, p99 {} ms, max {} ms", at(50), at(99), at(100));
    Ok(())
}
