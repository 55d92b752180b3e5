//! What a group promises, alone and in company.
//!
//! `world.rs` is a cluster in one value: replicas with disks whose unsynced part a crash loses, and a network that
//! loses, repeats, delays and reorders. `checks.rs` watches every call for the invariants it lists.
//! `seeds.rs` lets chance drive it, `scripts.rs` plays single stories.

mod checks;
mod codec;
mod rng;
#[cfg(not(any(feature = "bug-vote-forgotten", feature = "bug-stale-read")))]
mod scripts;
mod seeds;
mod single;
mod world;
