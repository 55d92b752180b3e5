//! Chance: a seeded generator, and the one place that asks the operating system for entropy.

use std::io::Read;

/// A source of random numbers.
pub trait Rng: Send {
    /// Returns 64 uniform bits.
    fn next_u64(&mut self) -> u64;

    /// Returns a number below `bound`, nearly uniform (bias below 2^-32 for bounds that fit 32 bits).
    ///
    /// # Panics
    /// If `bound` is zero.
    fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a number below zero does not exist");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns true with probability `numerator / denominator`.
    fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }
}

/// SplitMix64: tiny, fast, and the same numbers from the same seed for ever. Not for secrets.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
#[derive(Debug, Clone)]
pub struct SeededRng(u64);

impl SeededRng {
    /// Returns the generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns an independent generator for the part named `stream`, so that one more draw in one part does not
    /// shift the numbers of all others.
    #[must_use]
    pub fn fork(&self, stream: u64) -> Self {
        let mut child = Self(self.0 ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        child.next_u64();
        child
    }
}

impl Rng for SeededRng {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Returns 16 bytes of the operating system's entropy, for cluster ids and seeds.
///
/// # Errors
/// If `/dev/urandom` cannot be read.
pub fn entropy() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
