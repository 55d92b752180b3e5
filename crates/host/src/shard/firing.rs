//! What the leader proposes for schedules: the slots that have come, with the slots after them.
//!
//! The machine finds what is due by time and judges overlap; here slots are worked out. A slot that is proposed twice, by an
//! old leader and a new one, happens once: the machine takes only the one it waits for. Slots older than the catch-up window
//! are counted and passed over, the others happen in their order.
//!
//! # Invariants
//! - The work of a pass is bounded: slots, late slots counted, bytes of tasks made. The rest follows in the next entry.
//! - A schedule that this version cannot read is paused with the reason: it must not be looked at again and again.

use z4_tasks::DueSlot;
use z4_tasks::command::{Command, Fire, Firing, PauseSchedule};
use z4_types::Millis;
use z4_types::limits::ENTRY_BYTES_TARGET;

use crate::times::{Times, delay};

/// Schedules looked at in one pass.
pub(super) const SCHEDULES_PER_PASS: usize = 256;

/// Slots fired in one entry, all schedules together: a task each.
const SLOTS_PER_PASS: usize = 512;

/// Slots of one schedule fired in one entry: those of others are not to wait for one that has much to make up.
const SLOTS_EACH: usize = 16;

/// Late slots of one schedule that are counted one by one in one entry, some milliseconds of work.
const LATE_EACH: u64 = 1_000;

/// Who pauses a schedule that cannot be read.
const AUTHOR: &str = "z4";

/// Returns the commands for slots that have come by `now`, earliest first.
pub(super) fn firings(due: Vec<DueSlot>, now: Millis) -> Vec<Command> {
    let (mut commands, mut bytes) = (Vec::new(), 0);
    for slot in due {
        if commands.len() >= SLOTS_PER_PASS || bytes >= ENTRY_BYTES_TARGET {
            break;
        }
        let before = commands.len();
        let template_bytes = slot.template_bytes;
        fire(slot, now, ENTRY_BYTES_TARGET - bytes, &mut commands);
        bytes += template_bytes.saturating_mul(commands.len() - before);
    }
    commands
}

/// Adds the commands of one schedule, one at least; so many that their tasks fit into `room` bytes.
fn fire(due: DueSlot, now: Millis, room: usize, commands: &mut Vec<Command>) {
    let DueSlot { queue, name, etag, catch_up, jitter, template_bytes, .. } = due;
    let at = |slot| slot + delay(queue.as_str(), &name, slot, jitter);
    let command =
        |slot, firing| Command::Fire(Fire { queue: queue.clone(), name: name.clone(), etag, slot, firing });
    if due.buffered {
        commands.push(command(due.slot, Firing::Buffered { due: at(due.slot) }));
        return;
    }
    let times = match Times::read(&due.cron, &due.zone, due.anchor, due.end) {
        Ok(times) => times,
        Err(error) => {
            tracing::warn!(%queue, schedule = name, %error, "a schedule cannot be read and is paused");
            let note = format!("this version cannot read it: {error}");
            commands.push(Command::PauseSchedule(PauseSchedule {
                queue,
                name,
                etag: Some(etag),
                paused: true,
                note,
                author: AUTHOR.to_owned(),
                next: None,
            }));
            return;
        }
    };
    // The first instant that is not late.
    let window = now - catch_up;
    let most = (room / template_bytes.max(1)).clamp(1, SLOTS_EACH);
    let mut next = Some(due.slot);
    for _ in 0..most {
        let Some(slot) = next.filter(|slot| *slot <= now) else { break };
        if slot < window {
            let (slots, last) = times.count(slot, Millis(window.0 - 1), LATE_EACH);
            next = times.next(last);
            commands.push(command(slot, Firing::Late { slots, last, next }));
        } else {
            next = times.next(slot);
            commands.push(command(slot, Firing::Slot { due: at(slot), next }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use z4_types::{Duration, QueueName};

    fn due(cron: &str, slot: u64) -> DueSlot {
        DueSlot {
            queue: QueueName::new("q").expect("valid"),
            name: "n".into(),
            etag: 3,
            slot: Millis(slot),
            buffered: false,
            cron: cron.into(),
            zone: "UTC".into(),
            anchor: Millis(0),
            end: None,
            catch_up: Duration(60_000),
            jitter: Duration(0),
            template_bytes: 10,
        }
    }

    fn said(due: Vec<DueSlot>, now: u64) -> Vec<String> {
        let shown = |next: Option<Millis>| next.map_or("none".to_owned(), |next| next.0.to_string());
        let said = firings(due, Millis(now)).into_iter().map(|command| match command {
            Command::Fire(Fire { slot, firing, .. }) => match firing {
                Firing::Slot { due, next } => format!("{} due {} then {}", slot.0, due.0, shown(next)),
                Firing::Late { slots, last, next } => {
                    format!("{} late {slots} up to {} then {}", slot.0, last.0, shown(next))
                }
                Firing::Buffered { due } => format!("{} remembered, due {}", slot.0, due.0),
            },
            Command::PauseSchedule(pause) => format!("paused by {}: {}", pause.author, pause.note),
            other => panic!("{other:?}"),
        });
        said.collect()
    }

    #[test]
    fn what_has_come_fires_in_order_and_what_is_too_late_is_passed_over() {
        assert_eq!(said(vec![due("@every 10s", 10_000)], 10_000), ["10000 due 10000 then 20000"]);
        assert_eq!(
            said(vec![due("@every 10s", 10_000)], 100_000),
            [
                "10000 late 3 up to 30000 then 40000",
                "40000 due 40000 then 50000",
                "50000 due 50000 then 60000",
                "60000 due 60000 then 70000",
                "70000 due 70000 then 80000",
                "80000 due 80000 then 90000",
                "90000 due 90000 then 100000",
                "100000 due 100000 then 110000",
            ]
        );
        let ends = DueSlot { end: Some(Millis(20_000)), ..due("@every 10s", 20_000) };
        assert_eq!(said(vec![ends], 25_000), ["20000 due 20000 then none"]);
        let remembered = DueSlot { buffered: true, ..due("@every 10s", 5) };
        assert_eq!(said(vec![remembered], 1_000_000), ["5 remembered, due 5"]);
    }

    #[test]
    fn a_jitter_is_drawn_the_same_every_time_and_within_its_span() {
        let shaky = || vec![DueSlot { jitter: Duration(5_000), ..due("@every 10s", 10_000) }];
        let first = said(shaky(), 10_000);
        assert_eq!(first, said(shaky(), 12_345));
        let Command::Fire(Fire { firing: Firing::Slot { due, .. }, .. }) =
            firings(shaky(), Millis(10_000)).remove(0)
        else {
            panic!("a slot")
        };
        assert!((10_000..=15_000).contains(&due.0), "{due}");
    }

    #[test]
    fn a_pass_is_bounded_by_slots_late_ones_and_bytes() {
        let much = DueSlot { catch_up: Duration(10_000_000), ..due("@every 1s", 1_000) };
        assert_eq!(said(vec![much.clone()], 1_000_000).len(), SLOTS_EACH);
        let all: Vec<DueSlot> = (0..100).map(|_| much.clone()).collect();
        let fired = said(all, 1_000_000).len();
        assert!((SLOTS_PER_PASS..SLOTS_PER_PASS + SLOTS_EACH).contains(&fired), "{fired}");
        let large = DueSlot { template_bytes: ENTRY_BYTES_TARGET, ..much };
        assert_eq!(said(vec![large.clone(), large], 1_000_000).len(), 1);
        let minutely = said(vec![due("* * * * *", 60_000)], 100_000_000_000);
        assert_eq!(minutely[0], "60000 late 1000 up to 60000000 then 60060000");
    }

    #[test]
    fn one_that_cannot_be_read_is_paused_with_the_reason() {
        let lost = DueSlot { zone: "Mars/Olympus".into(), ..due("@daily", 10_000) };
        let said = said(vec![lost], 20_000);
        assert!(
            said[0].starts_with("paused by z4: this version cannot read it: unknown time zone"),
            "{said:?}"
        );
    }
}
