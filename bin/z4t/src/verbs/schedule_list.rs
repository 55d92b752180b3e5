//! `schedule list QUEUE`: the schedules of a queue, page by page.

use z4_client::Client;

use crate::failure::Failure;
use crate::output;
use crate::schedules::{next_text, overlap_text, status_json};

pub(super) async fn run(client: &Client, queue: &str, json: bool) -> Result<(), Failure> {
    let (mut token, mut rows) = (None, Vec::new());
    loop {
        let (page, next) = client.list_schedules(queue, token.as_deref()).await?;
        for status in &page {
            if json {
                output::json(&status_json(status))?;
                continue;
            }
            let schedule = status.schedule.clone().unwrap_or_default();
            let overlap = overlap_text(schedule.overlap()).to_owned();
            let fired = status.counts.unwrap_or_default().fired.to_string();
            rows.push([
                status.name.clone(),
                schedule.cron,
                schedule.time_zone,
                next_text(status),
                overlap,
                fired,
            ]);
        }
        token = next;
        if token.is_none() {
            break;
        }
    }
    if json {
        return Ok(());
    }
    output::table(["NAME", "CRON", "ZONE", "NEXT", "OVERLAP", "FIRED"], &rows)
}
