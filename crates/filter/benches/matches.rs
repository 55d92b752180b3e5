//! What judging a task costs: `cargo bench -p z4-filter` prints nanoseconds a task and microseconds a text.

use std::hint::black_box;

use z4_env::{Clock, RealClock};
use z4_filter::{Fields, Filter, Phase};
use z4_types::{Millis, Priority, ShardId, TaskId};

const NOW: Millis = Millis(1_767_268_800_000);
const TASKS: u64 = 1_000;
const ROUNDS: u64 = 2_000;

struct Task {
    number: u64,
    key: String,
    last_error: String,
}

impl Fields for Task {
    fn id(&self) -> TaskId {
        TaskId::new(NOW, ShardId(1), self.number)
    }
    fn phase(&self) -> Phase {
        if self.number.is_multiple_of(4) { Phase::Waiting } else { Phase::Dead }
    }
    fn priority(&self) -> Priority {
        Priority(128)
    }
    fn deliver_at(&self) -> Millis {
        Millis(NOW.0 - self.number)
    }
    fn deliveries(&self) -> u32 {
        20
    }
    fn failures(&self) -> u32 {
        (self.number % 20) as u32
    }
    fn key(&self) -> &str {
        &self.key
    }
    fn group(&self) -> &str {
        "acme"
    }
    fn consumer(&self) -> &str {
        "worker-17"
    }
    fn last_error(&self) -> &str {
        &self.last_error
    }
    fn metadata(&self, name: &str) -> Option<&str> {
        (name == "user_id").then_some("newuser@example.com")
    }
}

fn main() {
    let clock = RealClock::new();
    let task = |number| Task {
        number,
        key: format!("order-{number}"),
        last_error: "connect to 10.0.0.17:443: timeout after 5 s".to_owned(),
    };
    let tasks: Vec<Task> = (0..TASKS).map(task).collect();
    let filters = [
        "state = dead",
        "state = dead AND deliver_at > now-1h AND failures >= 3",
        "state = dead AND failures >= 3 AND last_error:timeout AND metadata.user_id = \"newuser@*\"",
        "(state = due OR state = dead) AND NOT (group = globex OR key = order-*)",
    ];
    for text in filters {
        let start = clock.monotonic_ns();
        for _ in 0..ROUNDS {
            black_box(Filter::parse(black_box(text), NOW).expect("a filter"));
        }
        let parse_ns = (clock.monotonic_ns() - start) / ROUNDS;
        let filter = Filter::parse(text, NOW).expect("a filter");
        let start = clock.monotonic_ns();
        let mut passed = 0;
        for _ in 0..ROUNDS {
            passed += black_box(&tasks).iter().filter(|task| filter.matches(*task)).count();
        }
        let tenths = (clock.monotonic_ns() - start) * 10 / (ROUNDS * TASKS);
        let share = passed as u64 / ROUNDS;
        println!(
            "{:>3}.{} ns a task, {parse_ns:>5} ns to read, {share:>4} of {TASKS} pass: {text}",
            tenths / 10,
            tenths % 10
        );
    }
}
