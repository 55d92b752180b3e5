//! Tests of the whole machine: golden scripts, a naive model, and hostile bytes.

mod bytes;
mod limits;
#[cfg(not(feature = "bug-dedup-lost-at-restart"))]
mod model;
mod old;
mod script;
mod strict;

use proptest::test_runner::{Config, RngSeed};

/// The same cases on every run. `PROPTEST_RNG_SEED` and `PROPTEST_CASES` look further.
fn fixed(cases: u32) -> Config {
    let given = Config::default();
    let rng_seed = if given.rng_seed == RngSeed::Random { RngSeed::Fixed(4) } else { given.rng_seed };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { cases };
    Config { cases, rng_seed, failure_persistence: None, ..given }
}
