//! Limits of the process.
#![allow(unsafe_code, reason = "getrlimit and setrlimit have no safe form in std")]

/// Raises the limit of open files to what the administrator allows: each connection is one.
pub(crate) fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid, writable rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return;
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid rlimit, its soft limit is its hard one.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0 {
        tracing::debug!(before, now = limit.rlim_cur, "limit of open files");
    } else {
        tracing::warn!(limit = before, "the limit of open files cannot be raised");
    }
}
