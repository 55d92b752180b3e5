//! How fast is a host without a network? Batched push, then consume with acks, on a real directory.
//!
//! `cargo run --release -p z4-host --example cycle -- DIR [TASKS] [inline|thread]`

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::time::Instant;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use z4_host::{Config, Deliver, Delivery, Error, Host};
use z4_multiraft::LogMode;
use z4_tasks::command::{NewTask, Settlement, Verdict};
use z4_types::{Duration, QueueName};

struct Sink(UnboundedSender<Vec<Delivery>>);

impl Deliver for Sink {
    fn deliver(&mut self, tasks: Vec<Delivery>) -> bool {
        self.0.send(tasks).is_ok()
    }
    fn closed(&mut self, _: Error) {}
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("give a directory");
    let total: usize = args.next().map_or(1_000_000, |n| n.parse().expect("a number"));
    let mut config = Config::single("bench", std::path::Path::new(&dir));
    config.log_mode =
        if args.next().as_deref() == Some("inline") { LogMode::Inline } else { LogMode::Thread };
    let host = Host::start(&config, |_| {}).expect("the host starts");
    assert!(host.wait_until_serving(std::time::Duration::from_secs(10)), "the host leads its shards");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    let handle = host.handle().clone();
    let queue = QueueName::new("bench").expect("valid");
    let task = NewTask { payload: vec![7; 200].into(), ..NewTask::default() };
    let started = Instant::now();
    runtime.block_on(async {
        let mut producers = Vec::new();
        for _ in 0..4 {
            let (handle, queue, task) = (handle.clone(), queue.clone(), task.clone());
            producers.push(tokio::spawn(async move {
                let batch = vec![task; 1_000];
                let mut window = std::collections::VecDeque::new();
                for _ in 0..total / 4_000 {
                    let (handle, queue, batch) = (handle.clone(), queue.clone(), batch.clone());
                    window.push_back(tokio::spawn(async move { handle.create(queue, None, &batch).await }));
                    if window.len() >= 8 {
                        window.pop_front().expect("full").await.expect("joins").expect("creates");
                    }
                }
                for last in window {
                    last.await.expect("joins").expect("creates");
                }
            }));
        }
        for producer in producers {
            producer.await.expect("joins");
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    println!("push: {total} in {seconds:.2} s = {:.0}/s", total as f64 / seconds);

    let started = Instant::now();
    runtime.block_on(async {
        let mut consumers = Vec::new();
        for n in 0..4 {
            let (sender, mut tasks) = unbounded_channel();
            let consumer = handle
                .consume(queue.clone(), format!("c{n}"), Duration::from_secs(60), Box::new(Sink(sender)))
                .expect("opens");
            let handle = handle.clone();
            consumers.push(tokio::spawn(async move {
                consumer.credit(4_000, 64 << 20);
                let mut done = 0;
                while let Ok(Some(batch)) =
                    tokio::time::timeout(std::time::Duration::from_millis(700), tasks.recv()).await
                {
                    let count = u32::try_from(batch.len()).expect("small");
                    let acks = batch
                        .iter()
                        .map(|d| Settlement { id: d.pick.id, token: d.pick.token, verdict: Verdict::Ack })
                        .collect();
                    for result in handle.settle(acks).await.expect("settles") {
                        result.expect("acked");
                    }
                    done += count;
                    consumer.credit(count, u64::from(count) * 200);
                }
                done
            }));
        }
        let mut done = 0;
        for consumer in consumers {
            done += consumer.await.expect("joins");
        }
        assert_eq!(done as usize, total / 4_000 * 4_000);
    });
    let seconds = started.elapsed().as_secs_f64() - 0.7;
    println!("consume + ack: {total} in {seconds:.2} s = {:.0}/s", total as f64 / seconds);
    host.stop().expect("stops");
}
