//! Limits of the registry: it is one value in memory and one row, rewritten whole with every change.

/// Most hosts, removed ones included, whose names are kept. Past it a new name is refused. Placement looks at each of
/// them for each shard.
pub const HOSTS_MAX: usize = 256;
/// Largest replication. Seven voters survive three losses; past that commits only get slower.
pub const REPLICATION_MAX: u32 = 7;
/// Replicas of a task shard unless configured: survives the loss of one.
pub const REPLICATION_DEFAULT: u32 = 3;
/// Longest host id, address, tag key and tag value, bytes of UTF-8. Past it: refused.
pub const TEXT_BYTES_MAX: usize = 255;
/// Most tags of a host. Past it: refused.
pub const TAGS_MAX: usize = 64;
/// Instances kept of those that had a host's name before. The oldest is forgotten first: it stays refused as long as
/// its successor has announced itself, and its replicas' ids are never used again in any case.
pub const FORMER_INSTANCES_MAX: usize = 64;
/// Longest settings of one policy, bytes. Past it: refused.
pub const POLICY_BYTES_MAX: usize = 16 << 10;
/// Most bytes of all patterns and settings together: they travel in one entry to every task shard. Past it: refused.
pub const POLICIES_BYTES_MAX: usize = 1 << 20;
