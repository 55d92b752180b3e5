//! From directories to a driver: locks, identity, base, log, groups. No threads; the simulator boots the same way.
//!
//! What lives here is in the local group ([`crate::Seats`]): every replica with a seat is opened, and a group without
//! one, whose replica was buried when the host ended, is removed. A host that belongs to no cluster has no groups; it
//! waits for one, and its replicas come while it runs.
//!
//! # Not here
//! - How directories come to be: `boot/form.rs`. How a replica is opened: `open.rs`.

mod form;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, RwLock};

use z4_consensus::Membership;
use z4_env::{Clock, DirLock, Disk, Rng, SeededRng};
use z4_multiraft::Driver;
use z4_registry::Registry;
use z4_store::{Meta, Store};
use z4_types::{ClusterId, Index, ShardId};
use z4_wal::{Batch, Recovered, Wal};

use crate::budget::Budget;
use crate::config::Config;
use crate::error::BootError;
use crate::identity::{self, Identity};
use crate::machine::HostMachine;
use crate::open::Opener;
use crate::registry_shard::Published;
use crate::seats::{self, LOCAL, Origin, Seats};
use crate::shard::TaskMetrics;

/// File name of the base in the data directory.
const BASE: &str = "base.redb";

/// A host that is ready to be driven.
pub struct Boot {
    /// Its groups.
    pub driver: Driver<HostMachine>,
    /// Its log.
    pub wal: Wal,
    /// What routes by; replaced whole when the registry changes. Unknown while the host belongs to no cluster.
    pub registry: Published,
    /// Who it is.
    pub identity: Identity,
    /// Which replicas live here.
    pub seats: Seats,
    /// Counters of its task shards.
    pub metrics: Arc<TaskMetrics>,
    /// Entries of the log that are applied again because the base does not hold them.
    pub replayed: usize,
    /// Held as long as the host runs.
    pub locks: Vec<Box<dyn DirLock>>,
    /// Opens replicas that come later.
    pub opener: Opener,
}

/// What becomes of a host that belongs to no cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It forms one, as its configuration says, or does not start.
    Form,
    /// It forms one of its own if its configuration says so, and waits otherwise.
    Wait,
}

/// What the directories hold.
enum Found {
    Member(Identity),
    /// Directories of a host that belongs to no cluster.
    Waiting(Identity),
    Nothing,
}

/// Opens or forms the host that `config` describes: with its initial peers, or alone. `draw` gives the id of a new
/// cluster and the instance of new directories.
///
/// # Errors
/// See [`BootError`]: each says what to do. Of an existing host nothing is changed but what recovery cuts off the log.
pub fn boot(
    config: &Config,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    draw: u128,
) -> Result<Boot, BootError> {
    boot_as(config, disk, clock, draw, Absent::Form)
}

pub(crate) fn boot_as(
    config: &Config,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    draw: u128,
    absent: Absent,
) -> Result<Boot, BootError> {
    let locks = lock_dirs(config, &*disk)?;
    let found = find(config, &*disk, absent)?;
    let mut identity = match &found {
        Found::Member(identity) => {
            require_files(config, &*disk)?;
            // The start that wrote these names may have ended before they were durable: before anything is built on
            // them, they must be.
            for dir in dirs(config) {
                disk.sync_dir(dir).map_err(|error| BootError::Io { path: dir.into(), error })?;
            }
            identity.clone()
        }
        Found::Waiting(identity) => {
            form::form(config, &disk, founded(config, draw, absent)?.as_ref(), identity.instance)?
        }
        Found::Nothing => {
            form::form(config, &disk, founded(config, draw, absent)?.as_ref(), draw_instance(config, draw))?
        }
    };
    let store = open_store(config, &disk)?;
    store.discard_staging()?;
    let (mut seats, told) = seats::read(&store)?;
    let metas: BTreeMap<ShardId, Meta> = store.groups()?.into_iter().filter(|(id, _)| *id != LOCAL).collect();
    let floor: BTreeMap<ShardId, Index> = metas.iter().map(|(shard, meta)| (*shard, meta.applied)).collect();
    let (mut wal, mut recovered) = Wal::open(Arc::clone(&disk), wal_config(config), &floor)?;
    let upgraded = identity.instance == 0;
    if upgraded {
        recognise(&store, &metas, &mut seats)?;
        identity.instance = draw_instance(config, draw);
        write_identity(config, &*disk, &identity)?;
    }
    let published: Published = Arc::new(RwLock::new(Arc::new(told.unwrap_or_else(Registry::unknown))));
    let opener = Opener {
        store: store.clone(),
        log: wal.reader(),
        published: Arc::clone(&published),
        metrics: Arc::new(TaskMetrics::default()),
        outbox: Budget::new(config.sizes.outbox_bytes),
        election_seed: 0,
    };
    let mut driver = Driver::new(config.sizes.driver.clone(), clock, store.clone());
    let replayed = open_groups(config, &opener, &seats, &metas, &mut recovered, &mut driver)?;
    remove_buried(config, &store, &seats, &metas, &recovered, &mut wal)?;
    check_registry(config, &identity, &seats, &mut driver)?;
    if upgraded {
        // Who joins must find the log's start behind the rows that it began with.
        driver.want_checkpoint();
    }
    let metrics = Arc::clone(&opener.metrics);
    Ok(Boot { driver, wal, registry: published, identity, seats, metrics, replayed, locks, opener })
}

/// Opens every replica with a seat. Returns how many entries are applied again.
fn open_groups(
    config: &Config,
    opener: &Opener,
    seats: &Seats,
    metas: &BTreeMap<ShardId, Meta>,
    recovered: &mut Recovered,
    driver: &mut Driver<HostMachine>,
) -> Result<usize, BootError> {
    let mut replayed = 0;
    for (shard, seat) in seats.iter().filter(|(_, seat)| seat.replica > 0) {
        let Some(meta) = metas.get(shard) else {
            return Err(BootError::Corrupt(format!(
                "replica {} of shard {shard} lives here, but the base in {} does not hold it; restore the directory",
                seat.replica,
                config.data_dir.display()
            )));
        };
        // The newest hard state of a group that ever wrote stays in the log for ever. One that came empty writes first
        // when its snapshot is installed.
        let formed = if seat.origin == Origin::Formed { Index(1) } else { meta.applied };
        let log = match recovered.groups.remove(shard) {
            Some(log) => log,
            None if meta.applied > formed => {
                return Err(BootError::Corrupt(format!(
                    "the log in {} does not know shard {shard}, which the base in {} holds up to entry {}: the log was \
                     lost or replaced; restore both directories together",
                    config.peer_dir.display(),
                    config.data_dir.display(),
                    meta.applied
                )));
            }
            None => z4_wal::GroupLog::default(),
        };
        let (replica, again) = opener.open(*shard, seat.replica, meta, log)?;
        replayed += again;
        driver.add(replica);
    }
    Ok(replayed)
}

/// Removes the groups whose replicas were buried when the host ended: from the log, then from the base. A group that never had a seat is no such group.
fn remove_buried(
    config: &Config,
    store: &Store,
    seats: &Seats,
    metas: &BTreeMap<ShardId, Meta>,
    recovered: &Recovered,
    wal: &mut Wal,
) -> Result<(), BootError> {
    let is_buried = |shard: &ShardId| seats.get(shard).is_some_and(|seat| seat.replica == 0);
    let buried: Vec<ShardId> =
        recovered.groups.keys().chain(metas.keys()).filter(|shard| is_buried(shard)).copied().collect();
    if !buried.is_empty() {
        buried.iter().for_each(|shard| wal.forget(*shard));
        // Durable before the rows go: a new replica of the shard may begin empty at once, and the next start must not
        // find this one's log beside it.
        wal.append(&Batch::default())?;
        wal.sync()?;
    }
    for shard in metas.keys().filter(|shard| is_buried(shard)) {
        store.delete_group(*shard)?;
    }
    if let Some(shard) = metas.keys().find(|shard| !seats.contains_key(shard)) {
        return Err(BootError::Corrupt(format!(
            "the base in {} holds shard {shard}, of which no replica ever lived here; restore the directory",
            config.data_dir.display()
        )));
    }
    match recovered.groups.keys().find(|shard| !is_buried(shard)) {
        None => Ok(()),
        Some(shard) => Err(BootError::Corrupt(format!(
            "the log in {} knows shard {shard}, the base in {} does not: the directories are not of one host, or one \
             was restored without the other",
            config.peer_dir.display(),
            config.data_dir.display()
        ))),
    }
}

/// A member has the registry of its cluster, or waits for it.
fn check_registry(
    config: &Config,
    identity: &Identity,
    seats: &Seats,
    driver: &mut Driver<HostMachine>,
) -> Result<(), BootError> {
    let mut cluster = None;
    driver.for_each(|_, machine, _| {
        if let HostMachine::Registry(shard) = machine {
            cluster = shard.cluster();
        }
    });
    if let Some(cluster) = cluster.filter(|cluster| *cluster != identity.cluster) {
        return Err(BootError::Foreign {
            dir: config.data_dir.clone(),
            what: format!("cluster id {cluster}, by its base"),
            remedy: format!("its HOST file says {}: restore the directory as a whole", identity.cluster),
        });
    }
    if identity.is_member() && !seats.contains_key(&ShardId(0)) {
        return Err(BootError::Corrupt(format!("the base in {} has no shard 0", config.data_dir.display())));
    }
    Ok(())
}

/// Gives seats to the replicas of directories of format 1: each is the only voter of its group.
fn recognise(store: &Store, metas: &BTreeMap<ShardId, Meta>, seats: &mut Seats) -> Result<(), BootError> {
    let mut replicas = Vec::new();
    for (shard, meta) in metas {
        let membership = Membership::decode(&meta.conf).ok_or_else(|| {
            BootError::Corrupt(format!("the base's members of shard {shard} cannot be read"))
        })?;
        match membership.voters[..] {
            [id] if id > 0 => replicas.push((*shard, id)),
            _ => {
                return Err(BootError::Corrupt(format!(
                    "shard {shard} has voters {:?}, and nothing says which of them lives here",
                    membership.voters
                )));
            }
        }
    }
    Ok(seats::recognise(store, seats, &replicas)?)
}

/// Returns the registry of the cluster that the host is to form, if it is.
fn founded(config: &Config, draw: u128, absent: Absent) -> Result<Option<Registry>, BootError> {
    if config.bootstrap {
        let host = z4_registry::Host::new(config.host.clone(), config.advertise.clone());
        let mut registry = Registry::form(ClusterId(draw), &config.cluster_name, host, config.task_shards);
        registry.replication = config.replication;
        return Ok(Some(registry));
    }
    match absent {
        Absent::Form => config.founding().map(Some),
        Absent::Wait => Ok(None),
    }
}

/// Returns an instance number for new directories: two hosts draw different ones, even from one draw.
fn draw_instance(config: &Config, draw: u128) -> u64 {
    let name = config.host.0.bytes().fold(0, |hash: u64, byte| hash.rotate_left(7) ^ u64::from(byte));
    SeededRng::new((draw >> 64) as u64 ^ draw as u64).fork(name).next_u64().max(1)
}

fn lock_dirs(config: &Config, disk: &dyn Disk) -> Result<Vec<Box<dyn DirLock>>, BootError> {
    let mut locks = Vec::new();
    for dir in dirs(config) {
        let io = |error| BootError::Io { path: dir.into(), error };
        disk.create_dir_all(dir).map_err(io)?;
        locks.push(disk.lock_dir(dir).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => BootError::Locked(dir.into()),
            _ => io(error),
        })?);
    }
    Ok(locks)
}

/// The host's directories, once each.
fn dirs(config: &Config) -> Vec<&Path> {
    let mut dirs = vec![config.data_dir.as_path()];
    if config.peer_dir != config.data_dir {
        dirs.push(&config.peer_dir);
    }
    dirs
}

/// Writes who the host is into its directories, the data directory last: only both together say that it is a member.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write_identity(config: &Config, disk: &dyn Disk, identity: &Identity) -> Result<(), BootError> {
    dirs(config).iter().rev().try_for_each(|dir| identity::write(disk, dir, identity))
}

fn find(config: &Config, disk: &dyn Disk, absent: Absent) -> Result<Found, BootError> {
    let data = identity::read(disk, &config.data_dir)?;
    let peer = identity::read(disk, &config.peer_dir)?;
    for (dir, found) in [(&config.data_dir, &data), (&config.peer_dir, &peer)] {
        if let Some(found) = found {
            identity::check(dir, found, &config.host, &config.cluster_name)?;
        }
    }
    match (data, peer) {
        (Some(data), Some(peer)) => {
            identity::check_pair(&config.peer_dir, &peer, &data)?;
            if data.is_member() && !peer.is_member() {
                // Written last, so never true of directories that belong together.
                return Err(BootError::Half {
                    present: config.data_dir.clone(),
                    missing: config.peer_dir.clone(),
                });
            }
            Ok(if data.is_member() && peer.is_member() {
                // An upgrade may have ended between the two.
                Found::Member(Identity { instance: data.instance.min(peer.instance), ..data })
            } else {
                Found::Waiting(data)
            })
        }
        (Some(_), None) => {
            Err(BootError::Half { present: config.data_dir.clone(), missing: config.peer_dir.clone() })
        }
        // A crash while forming may leave the log's directory first; nothing was promised yet.
        (None, _) if absent == Absent::Wait || config.bootstrap || !config.initial_peers.is_empty() => {
            Ok(Found::Nothing)
        }
        (None, Some(_)) => {
            Err(BootError::Half { present: config.peer_dir.clone(), missing: config.data_dir.clone() })
        }
        (None, None) => Err(BootError::Empty(config.data_dir.clone())),
    }
}

/// A missing base or log must not be taken for an empty one.
fn require_files(config: &Config, disk: &dyn Disk) -> Result<(), BootError> {
    let missing = |what: &Path| {
        let what = what.display();
        BootError::Corrupt(format!(
            "{what} is missing, and with it what this host promised; restore its directory"
        ))
    };
    let base = config.data_dir.join(BASE);
    if !disk.exists(&base).map_err(|error| BootError::Io { path: base.clone(), error })? {
        return Err(missing(&base));
    }
    let wal = wal_config(config).dir;
    match disk.list(&wal) {
        Ok(names) if names.iter().any(|name| name.ends_with(".wal")) => Ok(()),
        Ok(_) => Err(missing(&wal.join("*.wal"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(missing(&wal)),
        Err(error) => Err(BootError::Io { path: wal, error }),
    }
}

fn open_store(config: &Config, disk: &Arc<dyn Disk>) -> Result<Store, BootError> {
    let mut settings = z4_store::Config::new(&config.data_dir);
    settings.cache_bytes = config.sizes.cache_bytes;
    Ok(Store::open(Arc::clone(disk), settings)?)
}

fn wal_config(config: &Config) -> z4_wal::Config {
    z4_wal::Config {
        dir: config.peer_dir.join("wal"),
        segment_bytes: config.sizes.segment_bytes,
        spares: config.sizes.spare_segments,
    }
}

#[cfg(test)]
mod tests;
