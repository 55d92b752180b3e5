//! Whose directory is it: the file `HOST` in each data directory (`docs/FORMATS.md`, "Data directories").
//!
//! Plain text, so that an operator can read it. Written last when a host is formed: a directory without it holds
//! nothing anybody was promised.

use std::path::{Path, PathBuf};

use z4_env::{Disk, OpenMode};
use z4_types::{ClusterId, HostId};

use crate::error::BootError;

/// Newest format of the data directories this version reads and the one it writes.
pub(crate) const FORMAT: u32 = 2;
const FILE: &str = "HOST";
const FIRST_LINE: &str = "z4 host directory";

/// Who a directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id; zero while the host belongs to none.
    pub cluster: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// The host.
    pub host: HostId,
    /// Drawn when the directories were made: another disk under the same name has another one. Zero in a directory of
    /// format 1, which had none.
    pub instance: u64,
}

impl Identity {
    /// Returns whether the host belongs to a cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.cluster != ClusterId(0)
    }
}

/// Returns the identity in `dir`, None if there is none.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, BootError> {
    let path = dir.join(FILE);
    let io = |error| BootError::Io { path: path.clone(), error };
    if !disk.exists(&path).map_err(io)? {
        return Ok(None);
    }
    let file = disk.open(&path, OpenMode::Read).map_err(io)?;
    let mut bytes = vec![0; usize::try_from(file.len().map_err(io)?).unwrap_or(0).min(64 << 10)];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    parse(&path, &String::from_utf8_lossy(&bytes)).map(Some)
}

/// Writes `identity` into `dir`, durably and atomically.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<(), BootError> {
    for (what, name) in [("host", &identity.host.0), ("cluster", &identity.cluster_name)] {
        if name.is_empty() || name.chars().any(char::is_control) || name.trim() != name {
            return Err(BootError::Name { what, name: name.clone() });
        }
    }
    let text = format!(
        "{FIRST_LINE}\nformat = {FORMAT}\ncluster = {}\ncluster_name = {}\nhost = {}\ninstance = {:016x}\n",
        identity.cluster, identity.cluster_name, identity.host, identity.instance
    );
    let path = dir.join(FILE);
    let staged = dir.join("HOST.new");
    let io = |error| BootError::Io { path: path.clone(), error };
    let file = disk.open(&staged, OpenMode::CreateOrOpen).map_err(io)?;
    file.set_len(0).map_err(io)?;
    file.write_all_at(text.as_bytes(), 0).map_err(io)?;
    file.sync_data().map_err(io)?;
    disk.rename(&staged, &path).map_err(io)?;
    disk.sync_dir(dir).map_err(io)
}

/// Refuses an identity that is not the one of host and cluster name.
pub(crate) fn check(
    dir: &Path,
    found: &Identity,
    host: &HostId,
    cluster_name: &str,
) -> Result<(), BootError> {
    let foreign = |what: String, remedy: String| BootError::Foreign { dir: dir.into(), what, remedy };
    if found.host != *host {
        return Err(foreign(
            format!("host {}", found.host),
            format!("this host is {host}: set Z4_PEER_ID={} or choose another directory", found.host),
        ));
    }
    if found.cluster_name != cluster_name {
        return Err(foreign(
            format!("cluster {:?}", found.cluster_name),
            format!(
                "this host is configured for cluster {cluster_name:?}: set Z4_CLUSTER_NAME={} or choose another directory",
                found.cluster_name
            ),
        ));
    }
    Ok(())
}

/// Refuses the directories of two hosts, or of one host at two times. One that names no cluster, or no instance, was
/// about to be written.
pub(crate) fn check_pair(dir: &Path, found: &Identity, other: &Identity) -> Result<(), BootError> {
    let foreign = |what: String, other: String| BootError::Foreign {
        dir: dir.into(),
        what,
        remedy: format!("the other directory of this host is of {other}: restore both from one host"),
    };
    if found.is_member() && other.is_member() && found.cluster != other.cluster {
        let of = |identity: &Identity| format!("cluster id {}", identity.cluster);
        return Err(foreign(of(found), of(other)));
    }
    if found.instance != 0 && other.instance != 0 && found.instance != other.instance {
        let of = |identity: &Identity| format!("instance {:016x}", identity.instance);
        return Err(foreign(of(found), of(other)));
    }
    Ok(())
}

fn parse(path: &Path, text: &str) -> Result<Identity, BootError> {
    let dir: PathBuf = path.parent().unwrap_or(path).into();
    let unreadable = |why: &str| {
        BootError::Corrupt(format!(
            "{} cannot be read: {why}; restore the directory from a backup",
            path.display()
        ))
    };
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err(unreadable("its first line is not that of a z4 host directory"));
    }
    let (mut format, mut cluster, mut cluster_name, mut host) = (None, None, None, None);
    let mut instance = 0;
    for line in lines {
        match line.split_once(" = ") {
            Some(("format", value)) => format = value.parse::<u32>().ok(),
            Some(("cluster", value)) => cluster = u128::from_str_radix(value, 16).ok(),
            Some(("cluster_name", value)) => cluster_name = Some(value.to_owned()),
            Some(("host", value)) => host = Some(value.to_owned()),
            Some(("instance", value)) => {
                instance =
                    u64::from_str_radix(value, 16).map_err(|_| unreadable("its instance is no number"))?;
            }
            _ => {}
        }
    }
    let found = format.ok_or_else(|| unreadable("it names no format"))?;
    if found > FORMAT {
        return Err(BootError::NewerFormat { dir, found, known: FORMAT });
    }
    match (cluster, cluster_name, host) {
        (Some(cluster), Some(cluster_name), Some(host)) => {
            Ok(Identity { cluster: ClusterId(cluster), cluster_name, host: HostId(host), instance })
        }
        _ => Err(unreadable("it names no cluster or no host")),
    }
}
