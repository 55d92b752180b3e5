//! A network of queues: frames are late, lost or doubled by seeded chance, and arrive in order of their due time.
//!
//! Every host sends through its own [`SimPort`]; the simulation asks [`SimNet::deliver`] for what has arrived by now.
//! Two frames of one link may overtake each other, since each draws its own delay. A cut link swallows frames one
//! way only, so half-open partitions are two different cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use z4_env::{Clock, Frame, Net, Rng, SeededRng};
use z4_types::HostId;

use crate::clock::SimClock;

/// Frames that may be under way on one link. Past it `send` drops and says so.
const FRAMES_PER_LINK_MAX: usize = 4_096;

/// What the links do to frames. Chances are per million frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// A frame vanishes.
    pub loss_ppm: u32,
    /// A frame arrives twice, each time with its own delay.
    pub duplicate_ppm: u32,
    /// The shortest delay, nanoseconds.
    pub delay_ns_min: u64,
    /// The longest delay, nanoseconds.
    pub delay_ns_max: u64,
}

impl Default for Links {
    /// Returns a good local network: 50–200 µs, nothing lost.
    fn default() -> Self {
        Self { loss_ppm: 0, duplicate_ppm: 0, delay_ns_min: 50_000, delay_ns_max: 200_000 }
    }
}

/// How many frames met which end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Handed to `send`.
    pub sent: u64,
    /// Given out by `deliver`.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Doubled.
    pub duplicated: u64,
    /// Swallowed by a cut link.
    pub cut: u64,
    /// Refused by a full link.
    pub full: u64,
}

impl NetCounters {
    /// Adds the counts of another network.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.cut += other.cut;
        self.full += other.full;
    }
}

/// One frame that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The sender.
    pub from: HostId,
    /// The directories that spoke for the sender, 0 if its plug does not say.
    pub instance: u64,
    /// The receiver.
    pub to: HostId,
    /// What was sent.
    pub frame: Frame,
}

struct State {
    rng: SeededRng,
    links: Links,
    cuts: BTreeSet<(HostId, HostId)>,
    /// Keyed by arrival and a serial number, so equal times keep the order of sending.
    under_way: BTreeMap<(u64, u64), Delivery>,
    on_link: BTreeMap<(HostId, HostId), usize>,
    serial: u64,
    counters: NetCounters,
}

/// The network of one simulation. Clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    state: Arc<Mutex<State>>,
    clock: SimClock,
}

/// One host's plug in the network.
#[derive(Clone)]
pub struct SimPort {
    net: SimNet,
    from: HostId,
    instance: u64,
}

impl SimNet {
    /// Returns a network with [`Links::default`], driven by `clock`, whose chances come from `seed`.
    #[must_use]
    pub fn new(seed: u64, clock: &SimClock) -> Self {
        let state = State {
            rng: SeededRng::new(seed).fork(4),
            links: Links::default(),
            cuts: BTreeSet::new(),
            under_way: BTreeMap::new(),
            on_link: BTreeMap::new(),
            serial: 0,
            counters: NetCounters::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), clock: clock.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the plug of host `from`.
    #[must_use]
    pub fn port(&self, from: HostId) -> SimPort {
        self.port_of(from, 0)
    }

    /// Returns the plug of host `from`, for which the directories `instance` speak.
    #[must_use]
    pub fn port_of(&self, from: HostId, instance: u64) -> SimPort {
        SimPort { net: self.clone(), from, instance }
    }

    /// Replaces what links do to frames sent from now on.
    pub fn set_links(&self, links: Links) {
        assert!(links.delay_ns_min <= links.delay_ns_max, "the shortest delay is not the longest");
        self.state().links = links;
    }

    /// Swallows every frame sent from `from` to `to` from now on.
    pub fn cut(&self, from: &HostId, to: &HostId) {
        self.state().cuts.insert((from.clone(), to.clone()));
    }

    /// Returns whether frames sent from `from` to `to` are swallowed now.
    #[must_use]
    pub fn is_cut(&self, from: &HostId, to: &HostId) -> bool {
        self.state().cuts.contains(&(from.clone(), to.clone()))
    }

    /// Mends every cut.
    pub fn heal(&self) {
        self.state().cuts.clear();
    }

    /// Drops every frame towards `to`, as a restarting host does.
    pub fn forget(&self, to: &HostId) {
        let mut state = self.state();
        state.under_way.retain(|_, delivery| delivery.to != *to);
        state.on_link.retain(|link, _| link.1 != *to);
    }

    /// Returns the next frame that has arrived by now.
    #[must_use]
    pub fn deliver(&self) -> Option<Delivery> {
        let now = self.clock.monotonic_ns();
        let mut state = self.state();
        let entry = state.under_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        let delivery = entry.remove();
        let link = (delivery.from.clone(), delivery.to.clone());
        *state.on_link.get_mut(&link).expect("a frame under way is counted on its link") -= 1;
        state.counters.delivered += 1;
        Some(delivery)
    }

    /// Returns the monotonic nanosecond at which the next frame arrives.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        self.state().under_way.keys().next().map(|key| key.0)
    }

    /// Returns what became of the frames so far.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        self.state().counters
    }
}

impl State {
    fn send(&mut self, now: u64, delivery: &Delivery) -> bool {
        self.counters.sent += 1;
        let link = (delivery.from.clone(), delivery.to.clone());
        let waiting = self.on_link.entry(link.clone()).or_default();
        if *waiting >= FRAMES_PER_LINK_MAX {
            self.counters.full += 1;
            return false;
        }
        if self.cuts.contains(&link) {
            self.counters.cut += 1;
            return true;
        }
        if self.links.loss_ppm > 0 && self.rng.chance(u64::from(self.links.loss_ppm), 1_000_000) {
            self.counters.lost += 1;
            return true;
        }
        let twice =
            self.links.duplicate_ppm > 0 && self.rng.chance(u64::from(self.links.duplicate_ppm), 1_000_000);
        self.counters.duplicated += u64::from(twice);
        for _ in 0..=u8::from(twice) {
            *waiting += 1;
            let spread = self.links.delay_ns_max - self.links.delay_ns_min;
            let at = now + self.links.delay_ns_min + self.rng.below(spread + 1);
            self.serial += 1;
            self.under_way.insert((at, self.serial), delivery.clone());
        }
        true
    }
}

impl Net for SimPort {
    fn send(&mut self, to: &HostId, frame: Frame) -> bool {
        let now = self.net.clock.monotonic_ns();
        let (from, instance) = (self.from.clone(), self.instance);
        let delivery = Delivery { from, instance, to: to.clone(), frame };
        self.net.state().send(now, &delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostId {
        HostId(name.to_owned())
    }

    fn frame(number: u8) -> Frame {
        Frame { urgent: false, body: vec![number] }
    }

    fn drain(net: &SimNet, clock: &SimClock) -> Vec<u8> {
        clock.step_ms(1_000);
        std::iter::from_fn(|| net.deliver()).map(|delivery| delivery.frame.body[0]).collect()
    }

    #[test]
    fn a_frame_arrives_after_its_delay_and_not_before() {
        let clock = SimClock::new();
        let net = SimNet::new(1, &clock);
        assert!(net.port(host("a")).send(&host("b"), frame(1)));
        assert_eq!(net.deliver(), None);
        let at = net.next_at().expect("one frame is under way");
        clock.step(at);
        assert_eq!(
            net.deliver(),
            Some(Delivery { from: host("a"), instance: 0, to: host("b"), frame: frame(1) })
        );
    }

    #[test]
    fn the_same_seed_loses_doubles_and_reorders_the_same_frames() {
        let run = |seed| {
            let clock = SimClock::new();
            let net = SimNet::new(seed, &clock);
            net.set_links(Links { loss_ppm: 200_000, duplicate_ppm: 200_000, ..Links::default() });
            let mut port = net.port(host("a"));
            (0..100).for_each(|number| assert!(port.send(&host("b"), frame(number))));
            (drain(&net, &clock), net.counters())
        };
        let (order, counters) = run(5);
        assert_eq!((order.clone(), counters), run(5));
        assert_ne!(order, run(6).0);
        assert!(counters.lost > 0 && counters.duplicated > 0 && !order.is_sorted());
    }

    #[test]
    fn a_cut_swallows_one_direction_and_a_full_link_says_so() {
        let clock = SimClock::new();
        let net = SimNet::new(1, &clock);
        net.cut(&host("a"), &host("b"));
        assert!(net.port(host("a")).send(&host("b"), frame(1)));
        assert!(net.port(host("b")).send(&host("a"), frame(2)));
        assert_eq!(drain(&net, &clock), [2]);
        net.heal();
        let mut port = net.port(host("a"));
        let taken = (0..5_000).filter(|_| port.send(&host("b"), frame(3))).count();
        assert_eq!(taken, FRAMES_PER_LINK_MAX);
        net.forget(&host("b"));
        assert!(port.send(&host("b"), frame(4)));
        assert_eq!(drain(&net, &clock), [4]);
        net.cut(&host("a"), &host("b"));
        assert!(net.is_cut(&host("a"), &host("b")) && !net.is_cut(&host("b"), &host("a")));
    }
}
