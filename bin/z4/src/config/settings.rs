//! The settings as the server takes them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use z4_host::Config;
use z4_multiraft::LogMode;
use z4_types::HostId;

use super::error::Error;
use super::keys::{key, log_mode_name};
use super::resolve::Resolved;
use super::value::Value;

/// See the module essay.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What the host takes.
    pub(crate) host: Config,
    /// Where to listen.
    pub(crate) bind: IpAddr,
    /// gRPC.
    pub(crate) service_port: u16,
    /// HTTP.
    pub(crate) metrics_port: u16,
    /// Debug level, human format.
    pub(crate) debug: bool,
    /// Threads for sockets and doors.
    pub(crate) worker_threads: usize,
}

impl Settings {
    /// Returns the settings that were resolved.
    ///
    /// # Errors
    /// If a required one is missing, or two do not go together.
    pub(crate) fn new(resolved: &Resolved) -> Result<Self, Error> {
        let read = Reader(resolved);
        let mut host = Config::single(&read.text("peer_id")?, std::path::Path::new(""));
        host.host = HostId(read.text("peer_id")?);
        host.cluster_name = read.text("cluster_name")?;
        host.advertise = read.text("peer_advertise_addr")?;
        host.bootstrap = read.bool("bootstrap_cluster")?;
        host.data_dir = PathBuf::from(read.text("db_data_dir")?);
        host.peer_dir = PathBuf::from(read.text("peer_data_dir")?);
        host.task_shards = u32::try_from(read.number("task_shards")?).unwrap_or(u32::MAX);
        host.log_mode = match read.text("log_mode")? {
            mode if mode == log_mode_name(LogMode::Inline) => LogMode::Inline,
            _ => LogMode::Thread,
        };
        host.sizes.segment_bytes = read.number("log_segment_bytes")?;
        host.sizes.inbox_bytes = read.size("inbox_bytes")?;
        host.sizes.outbox_bytes = read.size("outbox_bytes")?;
        host.sizes.cache_bytes = read.size("cache_bytes")?;
        host.sizes.driver.checkpoint_bytes = read.size("checkpoint_bytes")?;
        host.sizes.driver.stall_bytes = read.size("stall_bytes")?;
        let settings = Self {
            host,
            bind: read.text("bind_addr")?.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            service_port: read.port("service_port")?,
            metrics_port: read.port("metrics_port")?,
            debug: read.bool("debug_logging_enabled")?,
            worker_threads: read.size("worker_threads")?,
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), Error> {
        let sizes = &self.host.sizes.driver;
        if sizes.stall_bytes <= sizes.checkpoint_bytes {
            return Err(Error::Together(
                "stall_bytes must be larger than checkpoint_bytes: writes would wait for every checkpoint"
                    .into(),
            ));
        }
        if self.service_port == self.metrics_port && self.service_port != 0 {
            let port = self.service_port;
            return Err(Error::Together(format!(
                "service_port and metrics_port are both {port}; give them different ones"
            )));
        }
        Ok(())
    }
}

struct Reader<'a>(&'a Resolved);

impl Reader<'_> {
    fn value(&self, name: &str) -> Result<&Value, Error> {
        if let Some((value, _)) = self.0.0.get(name) {
            return Ok(value);
        }
        let key = key(name).expect("only keys of the table are read");
        Err(Error::Missing { variable: key.variable(), flag: key.flag(), help: key.help })
    }

    fn text(&self, name: &str) -> Result<String, Error> {
        match self.value(name)? {
            Value::Text(text) => Ok(text.clone()),
            other => unreachable!("{name} is text by its kind, not {other:?}"),
        }
    }

    fn number(&self, name: &str) -> Result<u64, Error> {
        match self.value(name)? {
            Value::Number(number) => Ok(*number),
            other => unreachable!("{name} is a number by its kind, not {other:?}"),
        }
    }

    fn bool(&self, name: &str) -> Result<bool, Error> {
        match self.value(name)? {
            Value::Bool(value) => Ok(*value),
            other => unreachable!("{name} is a bool by its kind, not {other:?}"),
        }
    }

    fn size(&self, name: &str) -> Result<usize, Error> {
        Ok(usize::try_from(self.number(name)?).unwrap_or(usize::MAX))
    }

    fn port(&self, name: &str) -> Result<u16, Error> {
        Ok(u16::try_from(self.number(name)?).expect("a port by its kind"))
    }
}
