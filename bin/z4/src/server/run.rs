//! The life of a server: bind, start, serve, stop.

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use z4_host::{Host, Network};
use z4_multiraft::Fault;
use z4_types::Kind;

use crate::config::Settings;

/// The host ended by itself.
const FAULT: u8 = 3;
/// A second signal ended the process.
const CUT: i32 = 1;
/// Other hosts have so long to take over what this one leads.
const HAND_OVER_MAX: Duration = Duration::from_millis(1_500);
/// The last checkpoint has so long after the doors are closed, so that all is over within ten seconds.
const STOP_MAX: Duration = Duration::from_secs(2);

/// Serves until a signal or a fault.
///
/// # Errors
/// If it could not start: one line with the remedy.
pub(crate) fn serve(settings: Settings, print_ports: bool) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.worker_threads)
        .enable_all()
        .build()
        .context("threads cannot be started")?;
    let code = runtime.block_on(live(settings, print_ports));
    // What still runs is cut connections and reads; none of it is promised to anybody.
    runtime.shutdown_background();
    code
}

async fn live(mut settings: Settings, print_ports: bool) -> Result<ExitCode> {
    let service = bind(&settings, settings.service_port, "service_port").await?;
    let metrics = bind(&settings, settings.metrics_port, "metrics_port").await?;
    let peers = bind(&settings, settings.peer_port, "peer_port").await?;
    let (service_address, metrics_address) = (service.local_addr()?, metrics.local_addr()?);
    let peer_address = peers.local_addr()?;
    if print_ports {
        say_ports(service_address, metrics_address, peer_address)?;
    }
    settings.reached_at(service_address.port(), peer_address.port());
    let (ended, mut fault) = oneshot::channel();
    let config = settings.host.clone();
    let network = Network { runtime: tokio::runtime::Handle::current(), listener: peers };
    let started = tokio::task::spawn_blocking(move || {
        Host::start_with(&config, network, move |result| drop(ended.send(result.clone())))
    });
    let host = Arc::new(started.await.context("the host panicked while starting")??);
    let mut signals = Signals::new()?;

    let (stop, stopping) = watch::channel(false);
    let api = tokio::spawn(z4_api::serve(host.handle().clone(), service, stopping.clone()));
    let http = tokio::spawn(z4_http::serve(host.handle().clone(), metrics, stopping));
    let identity = host.handle().identity();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        host = %identity.host,
        cluster = %identity.cluster_name,
        service = %service_address,
        metrics = %metrics_address,
        peers = %peer_address,
        "z4 is listening"
    );
    tokio::select! {
        result = &mut fault => return Ok(report(result.ok().and_then(Result::err).as_ref())),
        name = signals.next() => tracing::info!(signal = name, "stopping"),
    }
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::warn!(signal = name, "stopping at once; the next start replays the log");
        std::process::exit(CUT);
    });
    // While the doors are open: calls go to the new leaders.
    let leader = Arc::clone(&host);
    let handed = tokio::task::spawn_blocking(move || leader.hand_over(HAND_OVER_MAX));
    tokio::select! {
        result = &mut fault => return Ok(report(result.ok().and_then(Result::err).as_ref())),
        joined = handed => if let Err(error) = joined {
            tracing::error!(%error, "leadership could not be handed over");
        },
    }
    stop.send_replace(true);
    tokio::select! {
        result = &mut fault => return Ok(report(result.ok().and_then(Result::err).as_ref())),
        joined = api => if let Err(error) = joined {
            tracing::error!(%error, "the gRPC door ended badly");
        },
    }
    let stopped = tokio::task::spawn_blocking(move || host.stop());
    let code = match timeout(STOP_MAX, stopped).await {
        Ok(Ok(Ok(()))) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Ok(Ok(Err(fault))) => report(Some(&fault)),
        Ok(Err(error)) => return Err(anyhow!("the host panicked while stopping: {error}")),
        Err(_) => {
            tracing::warn!(
                "stopped without the last checkpoint, which takes too long; the next start replays the log"
            );
            ExitCode::SUCCESS
        }
    };
    // The HTTP door goes last: whoever probes it can see the end coming.
    drop(stop);
    drop(timeout(Duration::from_secs(1), http).await);
    Ok(code)
}

/// Says why the host ended by itself, and what to do.
fn report(fault: Option<&Fault>) -> ExitCode {
    let remedy = match fault.map(|fault| fault.kind) {
        Some(Kind::Overloaded | Kind::Unavailable) => "make room on the disk, then start again",
        Some(Kind::Corrupt) => {
            "leave the directories as they are, check the disk, and restore a backup or report it"
        }
        _ => {
            "start again: what was acknowledged is in the log; if this repeats, check the disk and report it"
        }
    };
    let error = fault.map_or_else(|| "no reason was given".to_owned(), ToString::to_string);
    tracing::error!(error, remedy, "the host has ended by itself");
    ExitCode::from(FAULT)
}

async fn bind(settings: &Settings, port: u16, key: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(settings.bind, port);
    TcpListener::bind(address).await.map_err(|error| {
        let (variable, flag) = (key.to_ascii_uppercase(), key.replace('_', "-"));
        match error.kind() {
            ErrorKind::AddrInUse => anyhow!(
                "{address} is in use by another program; stop that one, or choose another port with Z4_{variable} \
                 (flag --{flag})"
            ),
            ErrorKind::PermissionDenied => anyhow!(
                "{address} needs a permission this user does not have; choose a port above 1023 with Z4_{variable} \
                 (flag --{flag})"
            ),
            ErrorKind::AddrNotAvailable => anyhow!(
                "{address} is no address of this machine; choose one with Z4_BIND_ADDR (flag --bind-addr)"
            ),
            _ => anyhow!("{address} cannot be listened on: {error}"),
        }
    })
}

fn say_ports(service: SocketAddr, metrics: SocketAddr, peers: SocketAddr) -> Result<()> {
    let line = serde_json::json!({
        "service_port": service.port(),
        "metrics_port": metrics.port(),
        "peer_port": peers.port(),
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("the ports cannot be printed")
}

/// The signals that stop a server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
