//! The machine under the figures: without it they say nothing.
//!
//! Everything is read from `/proc`; what cannot be read is said to be unknown. The load average shows whether
//! somebody else was working on the machine.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;

/// See the essay.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Hardware {
    /// Model of the processor.
    pub(crate) cpu: String,
    /// Threads this process may run at once.
    pub(crate) cores: usize,
    /// Memory of the machine.
    pub(crate) memory_bytes: u64,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Type and device of the file system the data is on.
    pub(crate) filesystem: String,
    /// Processes that wanted to run, average of the minute before the bench.
    pub(crate) load_1min: f64,
}

impl Hardware {
    /// Returns the machine as it is now, with the file system of `data`.
    pub(crate) fn read(data: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = value(&text("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let real = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
        Self {
            cpu: value(&text("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0u64) * 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            filesystem: filesystem(&text("/proc/mounts"), &real).unwrap_or_else(unknown),
            load_1min: text("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// Returns whether fdatasync on the data's file system reaches no disk.
    pub(crate) fn is_memory_only(&self) -> bool {
        self.filesystem.starts_with("tmpfs") || self.filesystem.starts_with("ramfs")
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} cores, {:.1} GiB, Linux {}, {}, load {} before",
            self.cpu,
            self.cores,
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.kernel,
            self.filesystem,
            self.load_1min
        )
    }
}

/// Finds the mount with the longest path that leads to `path`; of equal ones the last, which hides the others.
fn filesystem(mounts: &str, path: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, point, kind) = (words.next()?, words.next()?, words.next()?);
        path.starts_with(point).then(|| (point.len(), format!("{kind} on {device}")))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/data xfs rw 0 0\n";
        let find = |path: &str| filesystem(mounts, Path::new(path)).expect("something is mounted at /");
        assert_eq!(find("/var/x"), "ext4 on /dev/vda");
        assert_eq!(find("/tmp/x"), "tmpfs on tmpfs");
        assert_eq!(find("/tmp/data/z4"), "xfs on /dev/vdb");
        assert_eq!(find("/tmpfoo"), "ext4 on /dev/vda");
    }
}
