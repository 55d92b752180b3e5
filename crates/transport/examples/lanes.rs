//! Measures two transports on loopback: frames a second, and what bulk does to urgent.
//!
//! `cargo run --release -p z4-transport --example lanes`. Both ends share one process and one runtime, so the figures
//! hold the cost of both. CPU is read from `/proc/self/stat`, in steps of 10 ms.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use z4_env::{Clock, Frame, Net, RealClock};
use z4_transport::{Arrival, Boxed, Config, Handler, Identity, Lane, Port, Purpose, Refusal, Transport};
use z4_types::{ClusterId, HostId};

/// How long each row is measured.
const ROW_NS: u64 = 3_000_000_000;
/// Bytes that wait on the bulk lane: about what Raft's windows allow. A deeper queue measures the memory instead.
const WINDOW_BYTES: usize = 4 << 20;
/// Round trips of each row.
const TRIPS: usize = 5_000;
/// How long a sender waits when its lane is full.
const FULL: Duration = Duration::from_micros(50);

/// Counts bulk; sends urgent frames back, or reports them if they were sent back to us.
struct Counter {
    bulk: AtomicU64,
    back: OnceLock<(Port, HostId)>,
    trips: Option<mpsc::Sender<()>>,
}

impl Handler for Counter {
    fn admit(&self, _peer: &Identity, _purpose: Purpose) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&self, _from: &HostId, arrival: Arrival) {
        match (arrival.lane, self.back.get(), &self.trips) {
            (Lane::Bulk, ..) => drop(self.bulk.fetch_add(1, Ordering::Relaxed)),
            (Lane::Urgent, Some((port, to)), _) => {
                port.clone().send(to, Frame { urgent: true, body: arrival.body.to_vec() });
            }
            (Lane::Urgent, None, Some(trips)) => drop(trips.send(())),
            (Lane::Urgent, None, None) => {}
        }
    }

    fn answer(&self, _from: Identity, question: Bytes) -> Boxed<'static, Bytes> {
        Box::pin(async move { question })
    }
}

struct Bench {
    a: Transport,
    /// Kept alive.
    _b: Transport,
    at_b: Arc<Counter>,
    trips: mpsc::Receiver<()>,
    clock: RealClock,
}

async fn start(name: &str, handler: Arc<Counter>) -> Result<(Transport, String), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let identity = Identity {
        cluster: ClusterId(1),
        cluster_name: "bench".into(),
        host: HostId(name.into()),
        instance: 1,
        address: address.clone(),
    };
    let mut config = Config::new(identity, 1);
    config.sizes.bulk_queue_bytes = WINDOW_BYTES;
    Ok((Transport::start(config, listener, handler)?, address))
}

impl Bench {
    async fn new() -> Result<Self, Box<dyn Error>> {
        let (sender, trips) = mpsc::channel();
        let counter = |trips| Arc::new(Counter { bulk: AtomicU64::new(0), back: OnceLock::new(), trips });
        let (at_a, at_b) = (counter(Some(sender)), counter(None));
        let (a, address_a) = start("a", at_a).await?;
        let (b, address_b) = start("b", Arc::clone(&at_b)).await?;
        a.set_peers(&BTreeMap::from([(HostId("b".into()), address_b)]));
        b.set_peers(&BTreeMap::from([(HostId("a".into()), address_a)]));
        at_b.back.set((b.port(), HostId("a".into()))).map_err(|_| "set once")?;
        Ok(Self { a, _b: b, at_b, trips, clock: RealClock::new() })
    }

    /// Sends bulk frames of `len` bytes until `stop`.
    fn flood(&self, len: usize, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
        let (mut port, stop) = (self.a.port(), Arc::clone(stop));
        std::thread::spawn(move || {
            let to = HostId("b".into());
            while !stop.load(Ordering::Relaxed) {
                if !port.send(&to, Frame { urgent: false, body: vec![7; len] }) {
                    std::thread::park_timeout(FULL);
                }
            }
        })
    }

    fn wait(&self, duration_ns: u64) {
        let until = self.clock.monotonic_ns() + duration_ns;
        while let Some(left) = until.checked_sub(self.clock.monotonic_ns()).filter(|left| *left > 0) {
            std::thread::park_timeout(Duration::from_nanos(left));
        }
    }

    fn throughput(&self, len: usize) -> Result<(), Box<dyn Error>> {
        let stop = Arc::new(AtomicBool::new(false));
        let flood = self.flood(len, &stop);
        self.wait(ROW_NS / 10);
        let (frames, at, cpu) =
            (self.at_b.bulk.load(Ordering::Relaxed), self.clock.monotonic_ns(), cpu_ms()?);
        self.wait(ROW_NS);
        let frames = self.at_b.bulk.load(Ordering::Relaxed) - frames;
        let seconds = (self.clock.monotonic_ns() - at) as f64 / 1e9;
        let cpu_us = (cpu_ms()? - cpu) as f64 * 1e3 / frames as f64;
        stop.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| "the sender panicked")?;
        let rate = frames as f64 / seconds;
        println!(
            "{len:>8} B  {rate:>12.0} frames/s  {:>8.1} MB/s  {cpu_us:>8.2} us CPU a frame",
            rate * len as f64 / 1e6
        );
        Ok(())
    }

    fn round_trips(&self, what: &str) -> Result<(), Box<dyn Error>> {
        let (mut port, to) = (self.a.port(), HostId("b".into()));
        let mut trips = Vec::with_capacity(TRIPS);
        for _ in 0..TRIPS {
            let at = self.clock.monotonic_ns();
            if !port.send(&to, Frame { urgent: true, body: vec![1; 64] }) {
                return Err("the urgent lane is full".into());
            }
            self.trips.recv_timeout(Duration::from_secs(10))?;
            trips.push(self.clock.monotonic_ns() - at);
        }
        trips.sort_unstable();
        let at = |percent: usize| trips[(trips.len() - 1) * percent / 100] as f64 / 1e3;
        println!("{what:<22}  p50 {:>8.1} us  p99 {:>8.1} us  max {:>8.1} us", at(50), at(99), at(100));
        Ok(())
    }
}

/// Returns the CPU time of this process, milliseconds.
fn cpu_ms() -> Result<u64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // User and system time are fields 14 and 15, in ticks of 10 ms; two fields came before the bracket.
    let tick = |at: usize| fields.get(at).copied().unwrap_or_default().parse::<u64>();
    Ok((tick(11)? + tick(12)?) * 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bench = runtime.block_on(Bench::new())?;
    bench.round_trips("warm-up")?;
    for len in [256, 4 << 10, 64 << 10] {
        bench.throughput(len)?;
    }
    // What still waits of the last row has to pass first.
    bench.wait(ROW_NS / 10);
    bench.round_trips("urgent, bulk idle")?;
    let stop = Arc::new(AtomicBool::new(false));
    let flood = bench.flood(64 << 10, &stop);
    bench.wait(ROW_NS / 10);
    bench.round_trips("urgent, bulk saturated")?;
    stop.store(true, Ordering::Relaxed);
    flood.join().map_err(|_| "the sender panicked")?;
    Ok(())
}
