//! What a network, a broken host or a stranger can send: nothing of it is delivered, all of it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use z4_env::{Rng, SeededRng};
use z4_transport::{Config, Timing};

use crate::common::{Node, config, start, start_at, until};

/// Listens before `target`, passes hellos on, and gives what follows to `meddle` while `active`.
async fn proxy<F>(target: &str, active: Arc<AtomicBool>, meddle: F) -> String
where
    F: Fn(&mut Vec<u8>) + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let address = listener.local_addr().expect("a bound listener").to_string();
    let (target, meddle) = (target.to_owned(), Arc::new(meddle));
    tokio::spawn(async move {
        while let Ok((dialer, _)) = listener.accept().await {
            let acceptor = TcpStream::connect(&target).await.expect("the target listens");
            tokio::spawn(pass(dialer, acceptor, Arc::clone(&active), Arc::clone(&meddle)));
        }
    });
    address
}

async fn pass<F>(dialer: TcpStream, acceptor: TcpStream, active: Arc<AtomicBool>, meddle: Arc<F>)
where
    F: Fn(&mut Vec<u8>) + Send + Sync + 'static,
{
    let (mut from_dialer, mut to_dialer) = dialer.into_split();
    let (mut from_acceptor, mut to_acceptor) = acceptor.into_split();
    let back = tokio::spawn(async move { copy(&mut from_acceptor, &mut to_dialer).await });
    let forth = async {
        let mut hello = vec![0; 16];
        from_dialer.read_exact(&mut hello).await?;
        let len = usize::from(u16::from_le_bytes([hello[10], hello[11]]));
        hello.resize(16 + len, 0);
        from_dialer.read_exact(&mut hello[16..]).await?;
        to_acceptor.write_all(&hello).await?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = from_dialer.read(&mut buffer).await?;
            let mut bytes = buffer[..count].to_vec();
            if active.load(Ordering::SeqCst) && count > 0 {
                meddle(&mut bytes);
            }
            if bytes.is_empty() {
                return std::io::Result::Ok(());
            }
            to_acceptor.write_all(&bytes).await?;
        }
    };
    // Either end may go first; both halves close then.
    let _ = forth.await;
    drop((from_dialer, to_acceptor));
    let _ = back.await;
}

/// No pings, so that the only thing on the lane is the frame of the test.
fn quiet(name: &str) -> Config {
    let base = config(name);
    let timing = Timing { beat: Duration::from_secs(600), silence: Duration::from_secs(601), ..base.timing };
    Config { timing, ..base }
}

/// Sends frames through a proxy that damages them, then through the same proxy at peace.
async fn damaged(meddle: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> (Node, Node) {
    let (a, mut b) = (start_at(quiet("a"), "127.0.0.1:0").await, start_at(quiet("b"), "127.0.0.1:0").await);
    let active = Arc::new(AtomicBool::new(true));
    let address = proxy(&b.address, Arc::clone(&active), meddle).await;
    a.dial(&[("b", &address)]);
    a.connected("b").await;
    a.send("b", false, b"to be damaged").await;
    until("the damage is counted", || b.status_of("a").from_bulk.broken > 0).await;
    active.store(false, Ordering::SeqCst);
    until("the lane was closed", || a.status_of("b").bulk.failures > 0).await;
    a.connected("b").await;
    a.send("b", false, b"whole").await;
    let arrived = b.body().await;
    assert_eq!(arrived, b"whole", "nothing damaged was delivered");
    assert_eq!(b.status_of("a").from_bulk.received.frames, 1);
    assert!(b.transport.status().listening.broken > 0);
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_body_closes_the_lane_and_the_sender_is_told() {
    let (a, _b) = damaged(|bytes| bytes[20] ^= 4).await;
    a.status_of("b").bulk.last_error.filter(|error| error.contains("broken connection")).expect("told why");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_length_closes_the_lane() {
    damaged(|bytes| bytes[2] ^= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_well_formed_head_that_announces_too_much_closes_the_lane() {
    damaged(|bytes| {
        bytes[..4].copy_from_slice(&(1u32 << 31).to_le_bytes());
        let check = crc32c::crc32c(&bytes[..6]) as u16;
        bytes[6..8].copy_from_slice(&check.to_le_bytes());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_and_an_end_is_a_broken_lane() {
    let (a, mut b) = (start_at(quiet("a"), "127.0.0.1:0").await, start_at(quiet("b"), "127.0.0.1:0").await);
    let active = Arc::new(AtomicBool::new(true));
    let cut = Arc::new(AtomicBool::new(false));
    // The first chunk is cut in the middle, the next one is the end.
    let once = Arc::clone(&cut);
    let address = proxy(&b.address, Arc::clone(&active), move |bytes| {
        let keep = if once.swap(true, Ordering::SeqCst) { 0 } else { bytes.len() / 2 };
        bytes.truncate(keep);
    })
    .await;
    a.dial(&[("b", &address)]);
    a.connected("b").await;
    a.send("b", false, &[1; 1_000]).await;
    until("half of it has passed", || cut.load(Ordering::SeqCst)).await;
    a.send("b", false, &[2; 1_000]).await;
    until("the end is counted as damage", || b.status_of("a").from_bulk.broken > 0).await;
    active.store(false, Ordering::SeqCst);
    until("the lane was closed", || a.status_of("b").bulk.failures > 0).await;
    a.connected("b").await;
    a.send("b", false, b"whole").await;
    assert_eq!(b.body().await, b"whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_falls_silent_behind_an_open_connection_is_noticed_by_both() {
    let impatient = |name| {
        let base = config(name);
        let timing =
            Timing { beat: Duration::from_millis(20), silence: Duration::from_millis(500), ..base.timing };
        Config { timing, ..base }
    };
    let (a, b) =
        (start_at(impatient("a"), "127.0.0.1:0").await, start_at(impatient("b"), "127.0.0.1:0").await);
    // A relay that forgets the connection: it passes the handshake, then nothing in either direction.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let address = listener.local_addr().expect("a bound listener").to_string();
    let target = b.address.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut dialer, _)) = listener.accept().await {
            let mut acceptor = TcpStream::connect(&target).await.expect("the target listens");
            for _ in 0..2 {
                let mut head = [0; 16];
                dialer.read_exact(&mut head).await.expect("a hello");
                let mut body = vec![0; usize::from(u16::from_le_bytes([head[10], head[11]]))];
                dialer.read_exact(&mut body).await.expect("its body");
                acceptor.write_all(&[&head[..], &body].concat()).await.expect("the target reads");
                std::mem::swap(&mut dialer, &mut acceptor);
            }
            open.push((dialer, acceptor));
        }
    });
    a.dial(&[("b", &address)]);
    a.fails("b", "nothing was heard for 500 ms").await;
    until("b has noticed, too: it had lanes and lost them or saw new ones", || {
        b.transport.status().listening.lanes > 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_at_the_peer_port_harm_nobody() {
    let (a, mut b) = (start("a").await, start("b").await);
    let mut rng = SeededRng::new(11);
    for round in 0..200 {
        let mut socket = TcpStream::connect(&b.address).await.expect("b listens");
        let len = rng.below(400) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
        // Half of them begin as a hello does and go wrong later.
        if round % 2 == 0 {
            bytes.splice(0..0, *b"z4peer\x01\x00\x01\x00");
        }
        // The other side may close before all is written.
        let _ = socket.write_all(&bytes).await;
    }
    until("all were told apart", || {
        let seen = b.transport.status().listening;
        seen.foreign + seen.broken + seen.silent + seen.failed == 200
    })
    .await;
    a.dial(&[("b", &b.address)]);
    a.send("b", true, b"still here").await;
    assert_eq!(b.body().await, b"still here");
}
