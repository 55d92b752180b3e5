//! From directories to a driver: locks, identity, base, log, groups. No threads; the simulator boots the same way.
//!
//! A new host is formed in an order that a crash cannot confuse: base with all groups (one durable transaction), log,
//! then the `HOST` files, the data directory's last. Directories without that file hold nothing anybody was
//! promised, so forming starts over.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use z4_consensus::{Membership, ReadBack};
use z4_env::{Clock, DirLock, Disk};
use z4_multiraft::{Driver, Replica, ReplicaConfig};
use z4_registry::{Host, Registry};
use z4_store::Store;
use z4_types::{ClusterId, Entry, Index, ShardId, Term};
use z4_wal::{Reader, Wal};

use crate::budget::Budget;
use crate::config::Config;
use crate::error::BootError;
use crate::identity::{self, Identity};
use crate::machine::HostMachine;
use crate::registry_shard::{ROW, RegistryShard};
use crate::shard::{TaskMetrics, TaskShard};

/// File name of the base in the data directory.
const BASE: &str = "base.redb";

/// A host that is ready to be driven.
pub struct Boot {
    /// Its groups.
    pub driver: Driver<HostMachine>,
    /// Its log.
    pub wal: Wal,
    /// What routes by; replaced whole when the registry changes.
    pub registry: Arc<std::sync::RwLock<Arc<Registry>>>,
    /// Who it is.
    pub identity: Identity,
    /// Counters of its task shards.
    pub metrics: Arc<TaskMetrics>,
    /// Entries of the log that are applied again because the base does not hold them.
    pub replayed: usize,
    /// Held as long as the host runs.
    pub locks: Vec<Box<dyn DirLock>>,
}

/// Opens or forms the host that `config` describes. `draw` is used once, for the id of a new cluster.
///
/// # Errors
/// See [`BootError`]: each says what to do. Of an existing host nothing is changed but what recovery cuts off the log.
pub fn boot(
    config: &Config,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    draw: u128,
) -> Result<Boot, BootError> {
    let locks = lock_dirs(config, &*disk)?;
    let identity = match find_identity(config, &*disk)? {
        Some(identity) => {
            require_files(config, &*disk)?;
            // The start that wrote these names may have ended before they were durable: before anything is built on
            // them, they must be.
            for dir in dirs(config) {
                disk.sync_dir(dir).map_err(|error| BootError::Io { path: dir.into(), error })?;
            }
            identity
        }
        None => form(config, &disk, ClusterId(draw))?,
    };
    let store = open_store(config, &disk)?;
    let metas = store.groups()?;
    let floor: BTreeMap<ShardId, Index> = metas.iter().map(|(shard, meta)| (*shard, meta.applied)).collect();
    let (wal, mut recovered) = Wal::open(Arc::clone(&disk), wal_config(config), &floor)?;
    let metrics = Arc::new(TaskMetrics::default());
    let outbox = Budget::new(config.sizes.outbox_bytes);
    let mut driver = Driver::new(config.sizes.driver.clone(), clock, store.clone());
    let mut registry = None;
    let mut replayed = 0;
    for (shard, meta) in &metas {
        let log = match recovered.groups.remove(shard) {
            Some(log) => log,
            // The newest hard state of a group that ever wrote stays in the log for ever.
            None if meta.applied > Index(0) => {
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
        let entries = entries_after(log.entries, meta.applied);
        replayed += entries.len();
        let working_set = store.group(*shard)?;
        let machine = if shard.0 == 0 {
            let machine = RegistryShard::open(&working_set)?;
            if machine.cluster() != identity.cluster {
                return Err(BootError::Foreign {
                    dir: config.data_dir.clone(),
                    what: format!("cluster id {}, by its base", machine.cluster()),
                    remedy: format!(
                        "its HOST file says {}: restore the directory as a whole",
                        identity.cluster
                    ),
                });
            }
            registry = Some(machine.published());
            HostMachine::Registry(Box::new(machine))
        } else {
            HostMachine::Tasks(Box::new(TaskShard::open(
                *shard,
                &working_set,
                Arc::clone(&metrics),
                Arc::clone(&outbox),
            )?))
        };
        let membership = Membership::decode(&meta.conf).ok_or_else(|| {
            BootError::Corrupt(format!("the base's members of shard {shard} cannot be read"))
        })?;
        let replica = ReplicaConfig {
            shard: *shard,
            replica: own_replica(*shard, &membership)?,
            election_seed: 0,
            hard_state: log.hard_state,
            entries,
            forget_from: None,
            read_back: Box::new(WalReadBack(wal.reader())),
        };
        driver.add(Replica::open(replica, working_set, machine)?);
    }
    if let Some(shard) = recovered.groups.keys().next() {
        return Err(BootError::Corrupt(format!(
            "the log in {} knows shard {shard}, the base in {} does not: the directories are not of one host, or one \
             was restored without the other",
            config.peer_dir.display(),
            config.data_dir.display()
        )));
    }
    let registry = registry.ok_or_else(|| {
        BootError::Corrupt(format!("the base in {} has no shard 0", config.data_dir.display()))
    })?;
    Ok(Boot { driver, wal, registry, identity, metrics, replayed, locks })
}

/// Returns the id of this host's replica: in a cluster of one host, the only voter.
fn own_replica(shard: ShardId, membership: &Membership) -> Result<u64, BootError> {
    match membership.voters[..] {
        [id] if id > 0 => Ok(id),
        _ => Err(BootError::Corrupt(format!(
            "shard {shard} has voters {:?}; this version runs one host and can serve exactly one",
            membership.voters
        ))),
    }
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

fn find_identity(config: &Config, disk: &dyn Disk) -> Result<Option<Identity>, BootError> {
    let data = identity::read(disk, &config.data_dir)?;
    let peer = identity::read(disk, &config.peer_dir)?;
    for (dir, found) in [(&config.data_dir, &data), (&config.peer_dir, &peer)] {
        if let Some(found) = found {
            identity::check(dir, found, &config.host, &config.cluster_name, None)?;
        }
    }
    match (data, peer) {
        (Some(data), Some(peer)) => {
            identity::check(&config.peer_dir, &peer, &config.host, &config.cluster_name, Some(data.cluster))?;
            Ok(Some(data))
        }
        (Some(_), None) => {
            Err(BootError::Half { present: config.data_dir.clone(), missing: config.peer_dir.clone() })
        }
        // A crash while forming may leave the log's directory first; nothing was promised yet.
        (None, _) if config.bootstrap => Ok(None),
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

fn form(config: &Config, disk: &Arc<dyn Disk>, cluster: ClusterId) -> Result<Identity, BootError> {
    refuse_promised_data(config, disk)?;
    discard_unfinished(config, &**disk)?;
    let host = Host::new(config.host.clone(), config.advertise.clone());
    let registry = Registry::form(cluster, &config.cluster_name, host, config.task_shards);
    let store = open_store(config, disk)?;
    let mut frozen = Vec::new();
    for shard in &registry.shards {
        let replica = registry.replica_on(shard.id, &config.host).expect("a new cluster has one host");
        let mut group = store.group(shard.id)?;
        group.set_conf(Membership::single(replica.id).encode());
        if shard.id.0 == 0 {
            group.insert(ROW, &registry.encode());
        }
        group.set_applied(Index(0), Term(0));
        frozen.extend(group.freeze());
    }
    store.checkpoint(&frozen)?;
    drop(store);
    Wal::open(Arc::clone(disk), wal_config(config), &BTreeMap::new())?;
    let identity = Identity { cluster, cluster_name: config.cluster_name.clone(), host: config.host.clone() };
    for dir in dirs(config).iter().rev() {
        identity::write(&**disk, dir, &identity)?;
    }
    Ok(identity)
}

/// A log beside a data directory without `HOST` may be of a start that a crash cut short, or of a lost base. They look
/// alike only while the log is unused: if it knows a group, the base was lost.
fn refuse_promised_data(config: &Config, disk: &Arc<dyn Disk>) -> Result<(), BootError> {
    let wal = wal_config(config);
    if !disk.exists(&wal.dir).map_err(|error| BootError::Io { path: wal.dir.clone(), error })? {
        return Ok(());
    }
    let (_, recovered) = Wal::open(Arc::clone(disk), wal, &BTreeMap::new())?;
    if !recovered.groups.is_empty() {
        return Err(BootError::Half { present: config.peer_dir.clone(), missing: config.data_dir.clone() });
    }
    Ok(())
}

/// Removes what an interrupted start left: only files of our own names.
fn discard_unfinished(config: &Config, disk: &dyn Disk) -> Result<(), BootError> {
    let wal_dir = config.peer_dir.join("wal");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| BootError::Io { path, error }
    };
    for (dir, names) in [(&config.data_dir, &[BASE][..]), (&config.peer_dir, &["HOST", "HOST.new"][..])] {
        for name in names {
            let path = dir.join(name);
            if disk.exists(&path).map_err(io(&path))? {
                disk.remove(&path).map_err(io(&path))?;
            }
        }
        disk.sync_dir(dir).map_err(io(dir))?;
    }
    if disk.exists(&wal_dir).map_err(io(&wal_dir))? {
        for name in disk.list(&wal_dir).map_err(io(&wal_dir))? {
            let path = wal_dir.join(name);
            disk.remove(&path).map_err(io(&path))?;
        }
        disk.sync_dir(&wal_dir).map_err(io(&wal_dir))?;
    }
    Ok(())
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

fn entries_after(entries: Vec<Entry>, applied: Index) -> Vec<Entry> {
    entries.into_iter().filter(|entry| entry.index > applied).collect()
}

/// The host's log as consensus reads it back.
struct WalReadBack(Reader);

impl ReadBack for WalReadBack {
    fn entries(&self, group: ShardId, from: Index, to: Index, bytes_max: usize) -> Option<Vec<Entry>> {
        self.0.entries(group, from, to, bytes_max).ok()
    }

    fn term(&self, group: ShardId, index: Index) -> Option<Term> {
        self.0.term(group, index)
    }
}
