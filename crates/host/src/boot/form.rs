//! Makes the directories of a host: of one that forms a cluster, or of one that waits for a cluster.
//!
//! In an order that a crash cannot confuse: base with all groups (one durable transaction), log, then the `HOST` files,
//! the data directory's last. Directories whose `HOST` files do not name a cluster hold nothing anybody was promised, so
//! forming starts over.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use z4_env::Disk;
use z4_registry::Registry;
use z4_types::ClusterId;
use z4_wal::Wal;

use super::{BASE, open_store, wal_config, write_identity};
use crate::config::Config;
use crate::error::BootError;
use crate::identity::Identity;
use crate::seats::{self, Seats};

/// Makes the directories, with this host's replicas of the cluster `registry` describes, if there is one.
pub(super) fn form(
    config: &Config,
    disk: &Arc<dyn Disk>,
    registry: Option<&Registry>,
    instance: u64,
) -> Result<Identity, BootError> {
    refuse_promised_data(config, disk)?;
    discard_unfinished(config, &**disk)?;
    let store = open_store(config, disk)?;
    if let Some(registry) = registry {
        seats::take(&store, &mut Seats::new(), seats::of_founder(registry, &config.host), None)?;
    }
    drop(store);
    Wal::open(Arc::clone(disk), wal_config(config), &BTreeMap::new())?;
    let identity = Identity {
        cluster: registry.map_or(ClusterId(0), |registry| registry.cluster),
        cluster_name: config.cluster_name.clone(),
        host: config.host.clone(),
        instance,
    };
    write_identity(config, &**disk, &identity)?;
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

/// Removes what an interrupted start left: only files of our own names. The data directory's `HOST` stays, if it is
/// there: it holds the instance, and is replaced whole.
fn discard_unfinished(config: &Config, disk: &dyn Disk) -> Result<(), BootError> {
    let wal_dir = config.peer_dir.join("wal");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| BootError::Io { path, error }
    };
    for (dir, names) in [(&config.data_dir, &[BASE][..]), (&config.peer_dir, &["HOST.new"][..])] {
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
