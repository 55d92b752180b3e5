//! `schedule run QUEUE NAME`: makes a schedule's task now and prints its id.

use serde_json::json;
use z4_client::{Client, ScheduleRun};

use crate::args::Named;
use crate::failure::Failure;
use crate::output;

pub(super) async fn run(client: &Client, named: &Named, json: bool) -> Result<(), Failure> {
    match (client.run_schedule(&named.of, &named.name).await?, json) {
        (ScheduleRun::Created(id), true) => output::json(&json!({ "id": id.to_string() })),
        (ScheduleRun::Created(id), false) => output::line(id),
        (ScheduleRun::Waits(open), true) => output::json(&json!({ "waits_for": open.to_string() })),
        (ScheduleRun::Waits(open), false) => output::line(format_args!("remembered until {open} has ended")),
    }
}
