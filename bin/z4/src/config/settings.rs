//! The settings as the server takes them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use z4_host::Config;
use z4_multiraft::LogMode;
use z4_types::HostId;

use super::error::Error;
use super::keys::{key, log_mode_name};
use super::resolve::Resolved;
use super::value::{Value, addresses, peers};

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
    /// Other hosts.
    pub(crate) peer_port: u16,
    /// Whether `host.advertise` was left to us.
    advertise_open: bool,
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
        host.initial_peers = peers(&read.optional("initial_peers").unwrap_or_default())
            .unwrap_or_default()
            .into_iter()
            .map(|(id, address)| (HostId(id.to_owned()), address.to_owned()))
            .collect();
        host.join = read
            .optional("join")
            .map_or_else(Vec::new, |list| addresses(&list).into_iter().map(str::to_owned).collect());
        host.service = read.optional("service_advertise_addr").unwrap_or_default();
        let own = host.initial_peers.iter().find(|(id, _)| *id == host.host);
        let mut advertise_open = resolved.is_default("peer_advertise_addr");
        if advertise_open && let Some((_, address)) = own {
            host.advertise.clone_from(address);
            advertise_open = false;
        }
        host.data_dir = PathBuf::from(read.text("db_data_dir")?);
        host.peer_dir = PathBuf::from(read.text("peer_data_dir")?);
        host.task_shards = u32::try_from(read.number("task_shards")?).unwrap_or(u32::MAX);
        host.replication = u32::try_from(read.number("replication")?).unwrap_or(u32::MAX);
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
            peer_port: read.port("peer_port")?,
            advertise_open,
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
        let ports = [
            ("service_port", self.service_port),
            ("metrics_port", self.metrics_port),
            ("peer_port", self.peer_port),
        ];
        for (at, (name, port)) in ports.iter().enumerate() {
            if let Some((other, _)) = ports[at + 1..].iter().find(|(_, other)| other == port && *port != 0) {
                return Err(Error::Together(format!(
                    "{name} and {other} are both {port}; give them different ones"
                )));
            }
        }
        self.check_beginning()
    }

    /// There is one way to begin.
    fn check_beginning(&self) -> Result<(), Error> {
        let host = &self.host;
        let ways = [
            ("bootstrap_cluster", host.bootstrap),
            ("initial_peers", !host.initial_peers.is_empty()),
            ("join", !host.join.is_empty()),
        ];
        let given: Vec<&str> = ways.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        if given.len() > 1 {
            return Err(Error::Together(format!(
                "{} are both set: a host forms a cluster alone (bootstrap_cluster), forms one with others \
                 (initial_peers), or joins one (join); choose one",
                given.join(" and ")
            )));
        }
        if !host.initial_peers.is_empty() {
            host.founding().map_err(|error| Error::Together(error.to_string()))?;
        }
        Ok(())
    }

    /// Fills in the addresses that were left open, now that the ports are bound.
    pub(crate) fn reached_at(&mut self, service_port: u16, peer_port: u16) {
        let name = |address: &str| address.rsplit_once(':').map_or("127.0.0.1", |(name, _)| name).to_owned();
        if self.advertise_open {
            self.host.advertise = format!("{}:{peer_port}", name(&self.host.advertise));
        }
        if self.host.service.is_empty() {
            self.host.service = format!("{}:{service_port}", name(&self.host.advertise));
        }
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

    fn optional(&self, name: &str) -> Option<String> {
        self.0.0.contains_key(name).then(|| self.text(name).ok()).flatten()
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
