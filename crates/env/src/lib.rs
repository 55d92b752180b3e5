//! The only home of time, chance, files and sockets: traits, and the real ones.
//!
//! Everything that can differ between two runs comes in through these traits, so that `z4-sim` can put a virtual
//! clock, a seeded generator, a disk that loses unsynced sectors and a network that drops frames in their place.
//!
//! # Not here
//! - The simulated ones: `z4-sim` implements the same traits.
//! - tokio: sockets of the doors belong to the doors; the core never awaits.

mod clock;
pub mod disk;
mod net;
mod rng;

pub use clock::{Clock, RealClock};
pub use disk::{DirLock, Disk, File, OpenMode, RealDisk};
pub use net::{Frame, Net};
pub use rng::{Rng, SeededRng, entropy};
