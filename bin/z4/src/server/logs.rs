//! Logs: JSON lines at info level, or for people at debug level. Always on stderr: stdout is for data.

use std::io::stderr;

use tracing_subscriber::EnvFilter;

/// Libraries that say too much at debug level.
const DEBUG_FILTER: &str = "debug,h2=info,hyper=info,hyper_util=info,tower=info,tonic=info,redb=info";

/// Starts logging for the whole process.
pub(crate) fn start(debug: bool) {
    let builder = tracing_subscriber::fmt().with_writer(stderr).log_internal_errors(false);
    if debug {
        builder.with_env_filter(EnvFilter::new(DEBUG_FILTER)).init();
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_env_filter(EnvFilter::new("info"))
            .init();
    }
}
