//! `schedule history QUEUE NAME`: what became of the last slots, the latest first.

use z4_client::Client;

use crate::args::Named;
use crate::failure::Failure;
use crate::output;
use crate::schedules::{fate, in_zone, millis, record_json};

pub(super) async fn run(client: &Client, named: &Named, limit: u32, json: bool) -> Result<(), Failure> {
    let records = client.schedule_history(&named.of, &named.name, limit).await?;
    if json {
        return records.iter().try_for_each(|record| output::json(&record_json(record)));
    }
    let status = client.schedule(&named.of, &named.name).await?;
    let zone = status.schedule.map_or("UTC".to_owned(), |schedule| schedule.time_zone);
    let rows: Vec<[String; 3]> = records
        .iter()
        .map(|record| {
            let slot = millis(record.slot.as_ref()).map(|slot| in_zone(slot, &zone)).unwrap_or_default();
            let (fate, about) = fate(record, &zone);
            [slot, fate.to_owned(), about]
        })
        .collect();
    output::table(["SLOT", "FATE", "ABOUT"], &rows)
}
