//! Which replicas live on this host: the rows of the local group (`docs/FORMATS.md`, "Local group").
//!
//! The registry says where replicas shall stand; this says which do. A replica's seat is written in the same commit as
//! the first meta of its group, so that a crash leaves both or neither, and it stays when the replica is gone: a
//! message for it, from a host that was asleep, must not bring it back to life without its memory.
//!
//! # Invariants
//! - `buried` never falls, and a replica that lives here is newer than it.

use std::collections::BTreeMap;

use z4_consensus::Membership;
use z4_multiraft::Fault;
use z4_registry::{Registry, Role};
use z4_store::Store;
use z4_types::{HostId, Index, Kind, ShardId, Term};

/// The pseudo shard that holds these rows. It is no Raft group.
pub(crate) const LOCAL: ShardId = ShardId(u32::MAX);
/// Key of the registry that this host was told when it was admitted.
const TOLD: &[u8] = b"registry";
const VERSION: u8 = 1;
/// Behind every key.
const END: &[u8] = &[0xFF; 9];

/// How a replica came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// With its group, as one of its first voters.
    Formed,
    /// Later, empty; a snapshot brings the rows. The log may know nothing of it until that is installed.
    Joined,
}

/// What this host remembers of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The replica that lives here, 0 for none.
    pub replica: u64,
    /// How it came.
    pub origin: Origin,
    /// The newest replica that lived here and is gone, 0 for none.
    pub buried: u64,
}

/// What this host remembers of all shards.
pub type Seats = BTreeMap<ShardId, Seat>;

/// What a group begins with on this host.
pub(crate) enum Beginning {
    /// As one of its first voters: these, and the row of shard 0.
    Formed(Membership, Option<Vec<u8>>),
    /// Empty.
    Joined,
}

/// Reads the rows: the seats, and the registry this host was told.
///
/// # Errors
/// If storage fails or the rows cannot be understood.
pub(crate) fn read(store: &Store) -> Result<(Seats, Option<Registry>), Fault> {
    let corrupt = |what: String| Fault { kind: Kind::Corrupt, what: format!("the local group: {what}") };
    let (mut seats, mut told, mut wrong) = (Seats::new(), None, None);
    store.group(LOCAL)?.scan(&[], END, &mut |key, value| {
        if key == TOLD {
            told = Some(value.to_vec());
        } else if let (Ok(shard), Some(seat)) = (key.try_into(), decode(value)) {
            seats.insert(ShardId(u32::from_be_bytes(shard)), seat);
        } else {
            wrong = Some(key.to_vec());
        }
        true
    })?;
    if let Some(key) = wrong {
        return Err(corrupt(format!("row {key:?} cannot be read; a newer version wrote it?")));
    }
    let told = told.map(|bytes| Registry::decode(&bytes)).transpose().map_err(|e| corrupt(e.to_string()))?;
    Ok((seats, told))
}

/// Gives seats to new replicas, durably on return, and takes note of the registry that was told. Takes long.
///
/// # Errors
/// As [`Store::checkpoint`]; nothing has changed then.
pub(crate) fn take(
    store: &Store,
    seats: &mut Seats,
    replicas: Vec<(ShardId, u64, Beginning)>,
    told: Option<&Registry>,
) -> Result<(), z4_store::Error> {
    let mut local = store.group(LOCAL)?;
    let mut frozen = Vec::new();
    let mut taken = Seats::new();
    for (shard, replica, beginning) in replicas {
        let buried = seats.get(&shard).map_or(0, |seat| seat.buried);
        assert!(replica > buried, "replica {replica} of shard {shard} has lived here and is gone");
        let mut group = store.group(shard)?;
        let origin = match beginning {
            Beginning::Formed(membership, row) => {
                group.set_conf(membership.encode());
                if let Some(row) = row {
                    group.insert(crate::registry_shard::ROW, &row);
                }
                // Whoever joins later finds the log's start behind it, and gets a snapshot.
                group.set_applied(Index(1), Term(1));
                Origin::Formed
            }
            Beginning::Joined => {
                group.set_conf(Membership::default().encode());
                Origin::Joined
            }
        };
        frozen.extend(group.freeze());
        let seat = Seat { replica, origin, buried };
        local.put(&shard.0.to_be_bytes(), &encode(seat));
        taken.insert(shard, seat);
    }
    if let Some(registry) = told {
        local.put(TOLD, &registry.encode());
    }
    frozen.extend(local.freeze());
    store.checkpoint(&frozen)?;
    seats.extend(taken);
    Ok(())
}

/// Returns the replicas that `host` begins with as one of those that form the cluster of `registry`.
pub(crate) fn of_founder(registry: &Registry, host: &HostId) -> Vec<(ShardId, u64, Beginning)> {
    let replica = |shard: &z4_registry::Shard| {
        let own = shard.on(host)?.id;
        let membership = Membership {
            learners: shard.with_role(Role::Learner).map(|each| each.id).collect(),
            ..Membership::of(shard.voters().map(|each| each.id).collect())
        };
        let row = (shard.id.0 == 0).then(|| registry.encode());
        Some((shard.id, own, Beginning::Formed(membership, row)))
    };
    registry.shards.iter().filter_map(replica).collect()
}

/// Takes the seats of replicas of before this table, whose groups are in the base. Durable on return.
///
/// # Errors
/// As [`Store::checkpoint`].
pub(crate) fn recognise(
    store: &Store,
    seats: &mut Seats,
    replicas: &[(ShardId, u64)],
) -> Result<(), z4_store::Error> {
    let mut local = store.group(LOCAL)?;
    for (shard, replica) in replicas {
        let seat = Seat { replica: *replica, origin: Origin::Formed, buried: 0 };
        local.put(&shard.0.to_be_bytes(), &encode(seat));
        seats.insert(*shard, seat);
    }
    store.checkpoint(&local.freeze().into_iter().collect::<Vec<_>>()).map(drop)
}

/// Takes the seat of `shard`'s replica away, durably on return. Its group is removed next, or by the next start.
///
/// # Errors
/// As [`Store::checkpoint`]; nothing has changed then.
pub(crate) fn bury(store: &Store, seats: &mut Seats, shard: ShardId) -> Result<(), z4_store::Error> {
    let Some(seat) = seats.get(&shard).copied().filter(|seat| seat.replica > 0) else { return Ok(()) };
    let seat = Seat { replica: 0, origin: seat.origin, buried: seat.replica };
    let mut local = store.group(LOCAL)?;
    local.put(&shard.0.to_be_bytes(), &encode(seat));
    store.checkpoint(&local.freeze().into_iter().collect::<Vec<_>>())?;
    seats.insert(shard, seat);
    Ok(())
}

fn encode(seat: Seat) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&seat.replica.to_le_bytes());
    bytes.push(match seat.origin {
        Origin::Formed => 1,
        Origin::Joined => 2,
    });
    bytes.extend_from_slice(&seat.buried.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Seat> {
    let (&[VERSION], rest) = bytes.split_first_chunk::<1>()? else { return None };
    let (replica, rest) = rest.split_first_chunk::<8>()?;
    let (&[origin], rest) = rest.split_first_chunk::<1>()?;
    let origin = match origin {
        1 => Origin::Formed,
        2 => Origin::Joined,
        _ => return None,
    };
    let buried = u64::from_le_bytes(rest.try_into().ok()?);
    Some(Seat { replica: u64::from_le_bytes(*replica), origin, buried })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use z4_env::RealDisk;

    use super::*;

    #[test]
    fn a_seat_has_its_golden_bytes_and_reads_back() {
        let seat = Seat { replica: 0x0102, origin: Origin::Joined, buried: 3 };
        let bytes = encode(seat);
        assert_eq!(bytes, [1, 2, 1, 0, 0, 0, 0, 0, 0, 2, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode(&bytes), Some(seat));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None);
        }
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn seats_are_durable_with_their_groups_and_the_dead_stay_buried() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || Store::open(Arc::new(RealDisk), z4_store::Config::new(dir.path())).expect("opens");
        let (store, mut seats) = (open(), Seats::new());
        let formed = Beginning::Formed(Membership::of(vec![7, 8]), None);
        let replicas = vec![(ShardId(1), 7, formed), (ShardId(2), 9, Beginning::Joined)];
        take(&store, &mut seats, replicas, None).expect("is written");
        bury(&store, &mut seats, ShardId(2)).expect("is written");
        drop(store);
        let store = open();
        let (found, told) = read(&store).expect("reads");
        assert_eq!((&found, told), (&seats, None));
        assert_eq!(found[&ShardId(2)], Seat { replica: 0, origin: Origin::Joined, buried: 9 });
        let metas = store.groups().expect("reads");
        assert_eq!((metas[&ShardId(1)].applied, metas[&ShardId(1)].term), (Index(1), Term(1)));
        assert_eq!(Membership::decode(&metas[&ShardId(2)].conf), Some(Membership::default()));
    }
}
