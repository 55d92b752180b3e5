//! Outgoing mail: parts for replicas become frames for hosts.
//!
//! All parts of one pass for one host and lane travel in one frame, so that a thousand idle groups cost a few frames a
//! second and not thousands.
//!
//! # Invariants
//! - Parts of one lane keep their order.
//! - A part for a replica whose host is not known is dropped: consensus repeats what matters.

use std::collections::BTreeMap;

use z4_env::Frame;
use z4_types::{HostId, ShardId};

use crate::part::Part;

/// A frame that has this many bytes is closed; a single part may be larger.
const FRAME_BYTES: usize = 1 << 20;
/// The same on the urgent lane: small, so that one frame does not hold up the next.
const URGENT_FRAME_BYTES: usize = 64 << 10;

/// See the module essay.
#[derive(Default)]
pub(crate) struct Post {
    /// By shard: where its replicas stand, as positions in `hosts`.
    routes: BTreeMap<ShardId, BTreeMap<u64, usize>>,
    /// Every host ever named, with the frames that are open: bulk, urgent.
    hosts: Vec<(HostId, [Vec<u8>; 2])>,
    /// Closed frames, in order.
    closed: Vec<(usize, Frame)>,
}

impl Post {
    /// Replaces the places of a shard's replicas.
    pub(crate) fn set_routes(&mut self, shard: ShardId, routes: &BTreeMap<u64, HostId>) {
        let routes = routes.iter().map(|(replica, host)| (*replica, self.position(host))).collect();
        self.routes.insert(shard, routes);
    }

    fn position(&mut self, host: &HostId) -> usize {
        self.hosts.iter().position(|(known, _)| known == host).unwrap_or_else(|| {
            self.hosts.push((host.clone(), [Vec::new(), Vec::new()]));
            self.hosts.len() - 1
        })
    }

    /// Takes note of where a replica that nobody told us about writes from.
    pub(crate) fn learn(&mut self, shard: ShardId, replica: u64, host: &HostId) {
        if self.routes.get(&shard).is_none_or(|routes| !routes.contains_key(&replica)) {
            let at = self.position(host);
            self.routes.entry(shard).or_default().insert(replica, at);
        }
    }

    pub(crate) fn forget(&mut self, shard: ShardId) {
        self.routes.remove(&shard);
    }

    /// Returns the replicas of `shard` on `host`.
    pub(crate) fn replicas_on(&self, shard: ShardId, host: &HostId) -> impl Iterator<Item = u64> + '_ {
        let at = self.hosts.iter().position(|(known, _)| known == host);
        let routes = self.routes.get(&shard).into_iter().flatten();
        routes.filter(move |(_, on)| Some(**on) == at).map(|(replica, _)| *replica)
    }

    /// Puts a part into the frame for its replica's host.
    pub(crate) fn put(&mut self, shard: ShardId, part: &Part) {
        let Some(&host) = self.routes.get(&shard).and_then(|routes| routes.get(&part.to())) else {
            return;
        };
        let urgent = part.is_urgent();
        let frame = &mut self.hosts[host].1[usize::from(urgent)];
        part.encode(shard, frame);
        let enough = if urgent { URGENT_FRAME_BYTES } else { FRAME_BYTES };
        if frame.len() >= enough {
            let body = std::mem::take(frame);
            self.closed.push((host, Frame { urgent, body }));
        }
    }

    /// Takes all frames.
    pub(crate) fn take(&mut self) -> Vec<(HostId, Frame)> {
        for (at, (_, open)) in self.hosts.iter_mut().enumerate() {
            for (urgent, frame) in [(true, 1), (false, 0)] {
                if !open[frame].is_empty() {
                    self.closed.push((at, Frame { urgent, body: std::mem::take(&mut open[frame]) }));
                }
            }
        }
        let closed = std::mem::take(&mut self.closed);
        closed.into_iter().map(|(host, frame)| (self.hosts[host].0.clone(), frame)).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use z4_types::Index;

    use super::*;
    use crate::part::Parts;

    fn host(name: &str) -> HostId {
        HostId(name.into())
    }

    #[test]
    fn parts_of_many_groups_share_a_frame_for_each_host_and_lane_and_keep_their_order() {
        let mut post = Post::default();
        for shard in 0..3 {
            let routes = [(10 + u64::from(shard), host("a")), (20 + u64::from(shard), host("b"))];
            post.set_routes(ShardId(shard), &routes.into_iter().collect());
        }
        let digest = |to, index| Part::Digest { to, index: Index(index), digest: 0 };
        for shard in 0..3_u32 {
            post.put(ShardId(shard), &digest(10 + u64::from(shard), 1));
            post.put(ShardId(shard), &digest(20 + u64::from(shard), 2));
            post.put(ShardId(shard), &Part::Chunk { to: 10 + u64::from(shard), bytes: Bytes::new() });
            post.put(ShardId(shard), &digest(99, 3));
        }
        // Nobody knows replica 99.
        let frames = post.take();
        let seen: Vec<(&str, bool)> = frames.iter().map(|(to, frame)| (&*to.0, frame.urgent)).collect();
        assert_eq!(seen, [("a", true), ("a", false), ("b", true)]);
        for (_, frame) in frames {
            let shards: Vec<u32> =
                Parts::new(frame.body.into()).expect("ours").map(|part| part.expect("whole").0.0).collect();
            assert_eq!(shards, [0, 1, 2]);
        }
        assert!(post.take().is_empty());
        assert_eq!(post.replicas_on(ShardId(1), &host("b")).collect::<Vec<_>>(), [21]);
    }

    #[test]
    fn a_full_frame_is_closed_and_the_next_part_begins_another() {
        let mut post = Post::default();
        post.set_routes(ShardId(1), &[(1, host("a"))].into_iter().collect());
        for _ in 0..5 {
            post.put(ShardId(1), &Part::Chunk { to: 1, bytes: vec![0; FRAME_BYTES / 2].into() });
        }
        let sizes: Vec<usize> =
            post.take().iter().map(|(_, frame)| frame.body.len() / (FRAME_BYTES / 2)).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }
}
