//! When a schedule fires: cron expressions, time zones, and the slots that follow from both. Pure.
//!
//! A [`Schedule`] is an [`Expression`], a [`Zone`] and the instant it starts at. It answers with *slots*: instants, in
//! whole milliseconds, that strictly grow. The leader of a shard asks for the slot after the one that fired and
//! proposes both (ADR-0011 item 9); nothing here is ever called by apply, because zone tables change with versions.
//!
//! ```text
//! "30 2 * * MON-FRI" ──Expression::parse──> fields ─┐
//! "Europe/Berlin"    ──Zone::named────────> tables ─┼─ Schedule ── next_after · after · slots_between ──> slots
//! created, updated   ─────────────────────> start ──┘
//! ```
//!
//! # Expressions
//! `[seconds] minutes hours day-of-month month day-of-week`: five fields, or six with seconds first; or a nickname
//! (`@yearly` `@annually` `@monthly` `@weekly` `@daily` `@midnight` `@hourly`); or `@every 1h30m`.
//!
//! | written | means | where |
//! |---|---|---|
//! | `*` · `?` | every value | every field · the two day fields |
//! | `5` · `1-5` · `1,15` | a value, a range, a list of items | every field |
//! | `*/15` · `10-40/5` · `10/5` | every 15th, every 5th of the range, every 5th from 10 to the end | every field |
//! | `JAN` … `DEC`, `SUN` … `SAT` | names, in any case | month, day of week |
//! | `0` and `7` | Sunday, as in crontab. **Not** Quartz, whose 1 is Sunday: write names | day of week |
//! | `L` · `L-2` · `LW` | last day, the second before it, the last Monday to Friday | day of month |
//! | `15W` | the Monday to Friday nearest to the 15th, within the month | day of month |
//! | `FRIL` · `MON#2` | the last Friday, the second Monday | day of week |
//!
//! *Days* follow crontab(5): if both day fields are restricted, either is enough; a field with `*`, `*/n` or `?`
//! is not restricted, and then both must hold. So `0 0 13 * FRI` is each 13th and each Friday; `0 0 */2 * MON` is
//! Mondays with an odd date, and `0 0 1-7 * */7` the first Sunday, which `SUN#1` says more plainly.
//!
//! `@every` counts elapsed time from the schedule's start: start + period, start + 2 periods… Zones do not touch it.
//!
//! # When clocks change
//! Two rules, those of Vixie's cron and its heirs:
//! - **Named times** (hours and minutes both without `*` or an open step such as `0/15`): a slot fires at the first
//!   instant at which the zone's clock shows its time *or a later one*. So a time inside a gap fires once, at the first
//!   instant after the gap, together with others of that gap; a time that comes twice fires the first time only.
//! - **Intervals** (hours or minutes with `*` or an open step): a slot fires whenever the clock shows it. So
//!   `*/15 * * * *` stays a quarter of an hour of elapsed time across both changes: nothing is made up after a gap,
//!   and a repeated hour is served twice. The price: `*/30 2 * * *` has no slot on the day that has no hour 2.
//!
//! Temporal and Quartz match the clock literally, and document the price: a nightly job at 02:30 is lost one night in
//! spring and may run twice one night in autumn; Kubernetes too loses the one in spring. Nobody who wrote "every night
//! at 02:30" meant either, so we give what was meant: each night, once. Tests: `tests/dst.txt`.
//!
//! # Invariants
//! - `next_after(t) > t`, and nothing lies between: slots are a function of expression, zone, start and zone tables.
//! - Work is bounded whatever the expression: at most [`SEGMENTS_MAX`] clock changes and 400 years of months.
//!
//! # Not here
//! - Reading a clock, waking up, proposing: the leader's half of a shard. Overlap, catch-up and pause: `tasks`.
//! - Bytes: expressions and zone names are stored as their text, parsed again where they are needed.
//!
//! # Caveats
//! - A year field and `TZ=` prefixes are refused by name: start, pause and zone are settings of a schedule.
//! - Zone tables are those of the binary ([`Zone::tables_version`]): a new law needs a new release, on every host.
//! - Leap seconds do not exist, as nowhere in z4: second 60 is refused.
//!
//! Sources: crontab(5) and `cron.c` of Vixie cron 3 and later; Quartz `CronExpression`; the IANA time zone database.

mod calendar;
mod civil;
mod days;
mod error;
mod every;
mod expression;
mod field;
mod items;
mod jitter;
mod schedule;
mod zone;

pub use error::{Error, SyntaxError};
pub use expression::{EXPRESSION_BYTES_MAX, Expression};
pub use field::Field;
pub use jitter::jitter;
pub use schedule::{Between, SEGMENTS_MAX, Schedule, Slots};
pub use zone::{ZONE_NAME_BYTES_MAX, Zone};
