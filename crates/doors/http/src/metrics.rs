//! What `/metrics` shows: names `z4_*` with their unit, labels `queue`, `shard` and `peer` (another
//! host), nothing unbounded.
//!
//! # Caveats
//! - Queues beyond the hundred with the largest backlogs are summed up under `queue="_other"`.
//! - What is due when is shown of the twenty with the largest backlogs only: it is read, not counted along.
//! - Counters `z4_tasks_*_total` start at zero with the process, gauges of queues are the shard's state.

use std::sync::atomic::Ordering::Relaxed;

use z4_host::{DueCounts, Handle, QueueStats, Snapshot};

use crate::process::resident_bytes;
use crate::text::Page;

/// Queues with a label of their own.
const QUEUES_MAX: usize = 100;
/// Takes the sum of all others.
const OTHER: &str = "_other";
const CLOCK_OFFSET: &str = "z4_host_clock_offset_seconds";
const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

/// Returns the page.
pub(crate) fn metrics(handle: &Handle, snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    tasks(&mut page, handle);
    queues(&mut page, snapshot);
    due(&mut page, handle, snapshot);
    shards(&mut page, snapshot);
    host(&mut page, handle);
    page.finish()
}

fn tasks(page: &mut Page, handle: &Handle) {
    let tasks = handle.task_metrics();
    let counters = [
        ("z4_tasks_pushed_total", "Tasks created.", &tasks.pushed),
        ("z4_tasks_delivered_total", "Deliveries to consumers.", &tasks.delivered),
        ("z4_tasks_redelivered_total", "Deliveries that were not a task's first.", &tasks.redelivered),
        ("z4_tasks_acked_total", "Tasks acknowledged.", &tasks.acked),
        ("z4_tasks_failed_total", "Tasks that a consumer said it failed.", &tasks.failed),
        ("z4_tasks_dead_total", "Tasks that failed for the last time.", &tasks.dead),
        ("z4_schedule_slots_fired_total", "Slots of schedules that made a task.", &tasks.slots_fired),
        (
            "z4_schedule_slots_overlapped_total",
            "Slots without a task: the last one was open.",
            &tasks.slots_overlapped,
        ),
        (
            "z4_schedule_slots_late_total",
            "Slots without a task: older than the catch-up window.",
            &tasks.slots_late,
        ),
        (
            "z4_schedule_slots_refused_total",
            "Slots without a task: the queue took none.",
            &tasks.slots_refused,
        ),
        ("z4_settlements_stale_total", "Settlements refused because their lease was over.", &tasks.stale),
    ];
    for (name, help, value) in counters {
        page.single(name, COUNTER, help, value.load(Relaxed));
    }
    page.histogram(
        "z4_delivery_lateness_seconds",
        "Delivery less the later of due time and creation, by the shard's clock.",
        tasks.lateness.buckets(),
        tasks.lateness.sum_seconds(),
    );
}

fn queues(page: &mut Page, snapshot: &Snapshot) {
    let counts =
        |stats: &QueueStats| [stats.waiting, stats.leased, stats.blocked, stats.dead, stats.finished];
    let queues = snapshot.queues.iter();
    let mut rows: Vec<(&str, [u64; 5])> =
        queues.map(|(name, stats)| (name.as_str(), counts(stats))).collect();
    rows.sort_by_key(|(name, [waiting, leased, blocked, ..])| {
        (std::cmp::Reverse(waiting + leased + blocked), *name)
    });
    rows.truncate(QUEUES_MAX);
    if rows.len() < snapshot.queues_total {
        let shown = |at: usize| rows.iter().map(|(_, counts)| counts[at]).sum::<u64>();
        let totals = counts(&snapshot.totals);
        rows.push((OTHER, std::array::from_fn(|at| totals[at] - shown(at))));
    }
    page.single("z4_queues", GAUGE, "Queues this host leads.", snapshot.queues_total);
    let gauges = [
        ("z4_queue_waiting_tasks", "Tasks nobody holds, scheduled or due."),
        ("z4_queue_leased_tasks", "Tasks consumers hold."),
        ("z4_queue_blocked_tasks", "Tasks that wait for others to end."),
        ("z4_queue_dead_tasks", "Tasks that failed for the last time."),
        ("z4_queue_finished_tasks", "Tasks that have ended and are kept."),
    ];
    for (at, (name, help)) in gauges.into_iter().enumerate() {
        page.metric(name, GAUGE, help);
        for (queue, counts) in &rows {
            page.sample(name, "queue", queue, counts[at]);
        }
    }
}

/// What a gauge shows of a queue.
type Gauge<'a> = &'a dyn Fn(&DueCounts) -> f64;

fn due(page: &mut Page, handle: &Handle, snapshot: &Snapshot) {
    let now = handle.wall();
    let age = |counts: &DueCounts| counts.oldest_due.map_or(0.0, |at| now.since(at).0 as f64 / 1_000.0);
    let gauges: [(&str, &str, Gauge<'_>); 5] = [
        ("z4_queue_due_tasks", "Waiting tasks whose time has come.", &|counts| counts.due as f64),
        ("z4_queue_due_in_1m_tasks", "Tasks that come due within a minute.", &|counts| {
            counts.in_1_minute as f64
        }),
        ("z4_queue_due_in_5m_tasks", "Within five minutes.", &|counts| counts.in_5_minutes as f64),
        ("z4_queue_due_in_60m_tasks", "Within an hour.", &|counts| counts.in_60_minutes as f64),
        ("z4_queue_oldest_due_age_seconds", "How long the oldest due task has been due.", &age),
    ];
    for (name, help, value) in gauges {
        page.metric(name, GAUGE, help);
        for (queue, counts) in &snapshot.due {
            page.sample(name, "queue", queue.as_str(), value(counts));
        }
    }
}

fn shards(page: &mut Page, snapshot: &Snapshot) {
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(usize) -> u64| {
        page.metric(name, GAUGE, help);
        for (at, group) in snapshot.groups.iter().enumerate() {
            page.sample(name, "shard", &group.shard.to_string(), value(at));
        }
    };
    let groups = &snapshot.groups;
    gauge("z4_raft_term", "Raft term.", &|at| groups[at].term.0);
    gauge("z4_raft_is_leader", "1 if this host leads the shard.", &|at| groups[at].leading.into());
    gauge("z4_raft_has_leader", "1 if this host knows a leader.", &|at| (groups[at].leader != 0).into());
    gauge("z4_raft_last_index", "Last index of the log.", &|at| groups[at].last.0);
    gauge("z4_raft_commit_index", "Highest index known committed.", &|at| groups[at].commit.0);
    gauge("z4_raft_applied_index", "Highest index applied to the state.", &|at| groups[at].applied.0);
    gauge("z4_raft_durable_index", "Applied index that the base holds.", &|at| groups[at].durable.0);
}

fn host(page: &mut Page, handle: &Handle) {
    let threads = handle.runner_metrics();
    let histograms = [
        ("z4_log_fsync_seconds", "One fdatasync of the log.", &threads.fsync),
        ("z4_apply_seconds", "Applying what one pass committed.", &threads.apply),
        ("z4_checkpoint_seconds", "One checkpoint of all shards.", &threads.checkpoint),
    ];
    for (name, help, histogram) in histograms {
        page.histogram(name, help, histogram.buckets(), histogram.sum_seconds());
    }
    let counters = [
        ("z4_log_written_bytes_total", "Bytes written to the log.", &threads.log_bytes),
        (
            "z4_checkpoint_failures_total",
            "Checkpoints that failed and were tried again.",
            &threads.checkpoint_failures,
        ),
    ];
    for (name, help, value) in counters {
        page.single(name, COUNTER, help, value.load(Relaxed));
    }
    page.single(
        "z4_stalled_seconds_total",
        COUNTER,
        "Time in which nothing was accepted because the working set was full.",
        threads.stalled_ns.load(Relaxed) as f64 / 1e9,
    );
    let gauges = [
        ("z4_delta_bytes", "Bytes of the working sets in memory.", &threads.delta_bytes),
        ("z4_base_bytes", "Bytes of the base's file.", &threads.base_bytes),
        ("z4_log_segments", "Live segments of the log on disk, without spares.", &threads.log_segments),
        ("z4_disk_low", "1 while the disk is too full to take new tasks.", &threads.disk_low),
    ];
    for (name, help, value) in gauges {
        page.single(name, GAUGE, help, value.load(Relaxed));
    }
    page.single("z4_request_bytes", GAUGE, "Requests between accept and answer.", handle.request_bytes());
    page.single(
        "z4_wall_clock_offset_seconds",
        GAUGE,
        "How far the wall clock runs ahead of shard time.",
        threads.wall_ahead_ms.load(Relaxed).cast_signed() as f64 / 1e3,
    );
    page.metric(
        CLOCK_OFFSET,
        GAUGE,
        "How far another host's wall clock runs ahead of this one's; not there while unknown.",
    );
    for (peer, clock) in handle.peer_clocks() {
        page.sample(CLOCK_OFFSET, "peer", &peer.0, clock.offset_ms as f64 / 1e3);
    }
    if let Some(bytes) = resident_bytes() {
        page.single("process_resident_memory_bytes", GAUGE, "Resident memory of the process.", bytes);
    }
}
