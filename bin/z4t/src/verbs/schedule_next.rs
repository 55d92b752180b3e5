//! `schedule next`: slots to come, of a schedule or of an expression.

use serde_json::json;
use z4_client::Client;

use crate::failure::Failure;
use crate::output;
use crate::schedules::in_zone;
use crate::time::format_time;

/// Shows slots of the schedule that is named.
pub(super) async fn of_schedule(
    client: &Client,
    queue: &str,
    name: &str,
    count: u32,
    json: bool,
) -> Result<(), Failure> {
    let status = client.schedule(queue, name).await?;
    let zone = status.schedule.map_or("UTC".to_owned(), |schedule| schedule.time_zone);
    show(&client.next_slots(queue, name, count).await?, &zone, json)
}

/// Shows slots of an expression.
pub(super) async fn preview(
    client: &Client,
    cron: &str,
    zone: &str,
    count: u32,
    json: bool,
) -> Result<(), Failure> {
    show(&client.preview_slots(cron, zone, count).await?, zone, json)
}

fn show(slots: &[z4_client::Millis], zone: &str, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&json!(slots.iter().map(|slot| format_time(*slot)).collect::<Vec<_>>()));
    }
    slots.iter().try_for_each(|slot| output::line(in_zone(*slot, zone)))
}
