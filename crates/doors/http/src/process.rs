//! What the operating system knows of this process.

/// Returns the resident memory in bytes; None where `/proc` does not say.
pub(crate) fn resident_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn resident_memory_is_read_from_the_status_file() {
        assert_eq!(super::parse("Name:\tz4\nVmRSS:\t   12 kB\nThreads:\t3\n"), Some(12_288));
        assert_eq!(super::parse("Name:\tz4\n"), None);
    }
}
