//! A memory limit for the child: a control group of its own, version 1 or 2, whichever the kernel offers.
//!
//! Version 1: a group below our own in the memory hierarchy. Version 2: a group at the root of the tree, because a
//! group that has processes (ours) may not hand the controller down. Both need root.
//!
//! # Caveats
//! - The limit covers the page cache of the child's files too; the kernel gives that back before it kills.
//!
//! Sources: kernel documentation, admin-guide/cgroup-v1/memory and admin-guide/cgroup-v2.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const ROOT: &str = "/sys/fs/cgroup";

/// A control group; removed when dropped, after its last process has ended.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a group with a memory limit in bytes.
    ///
    /// # Errors
    /// The kernel offers no memory controller here, or we may not use it.
    pub(crate) fn with_memory(bytes: u64) -> Result<Self> {
        let name = format!("z4-bench-{}", std::process::id());
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let root = Path::new(ROOT);
        let version_1 = root.join("memory").join("memory.limit_in_bytes").exists();
        let (path, file) = if version_1 {
            (root.join("memory").join(own_memory_group(&own)).join(name), "memory.limit_in_bytes")
        } else if has_memory(&root.join("cgroup.subtree_control")) {
            (root.join(name), "memory.max")
        } else {
            bail!(
                "--memory needs the memory controller of cgroups, and {ROOT} offers none here; leave it out, \
                 or run the server in a container with a limit and name it with --target"
            );
        };
        let hint = || format!("--memory makes a control group in {}, which needs root", path.display());
        fs::create_dir(&path).with_context(hint)?;
        let group = Self(path.clone());
        fs::write(group.0.join(file), bytes.to_string()).with_context(hint)?;
        // Swap would hide the limit. Without swap accounting there is no such file, and usually no swap.
        for swap in ["memory.swap.max", "memory.memsw.limit_in_bytes"] {
            let limit = if swap == "memory.swap.max" { 0 } else { bytes };
            drop(fs::write(group.0.join(swap), limit.to_string()));
        }
        Ok(group)
    }

    /// Returns its folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Fails while a process is left in it; then it stays, empty of meaning.
        drop(fs::remove_dir(&self.0));
    }
}

/// The group of this process in the version 1 memory hierarchy, relative to its root.
fn own_memory_group(own: &str) -> &str {
    let group = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        parts.next()?.split(',').any(|name| name == "memory").then(|| parts.next())?
    });
    group.unwrap_or("/").trim_start_matches('/')
}

fn has_memory(controllers: &Path) -> bool {
    fs::read_to_string(controllers).is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
}

/// Reads a size such as 512M or 2G; a bare number is bytes.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match text[digits.len()..].trim_end_matches("iB").trim_end_matches('B') {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        other => return Err(format!("{other:?} is no unit; use K, M or G, as in 512M")),
    };
    let number: u64 = digits.parse().map_err(|_| "give a number and a unit, as in 512M".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "that is more than any machine has".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_the_memory_hierarchy() {
        let own = "8:pids:/a\n4:memory:/box/b:c\n3:cpuset,cpu:/\n0::/x\n";
        assert_eq!(own_memory_group(own), "box/b:c");
        assert_eq!(own_memory_group("0::/user.slice\n"), "");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "M", "5X", "99999999999999999999", "18446744073709551615G"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }
}
