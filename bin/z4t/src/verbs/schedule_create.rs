//! `schedule create QUEUE NAME`: makes a schedule and shows it.

use z4_client::Client;

use super::task_push::payload;
use crate::args::{Named, ScheduleFlags};
use crate::failure::Failure;
use crate::schedules::show;

pub(super) async fn run(
    client: &Client,
    named: &Named,
    flags: ScheduleFlags,
    json: bool,
) -> Result<(), Failure> {
    if flags.cron.is_none() {
        return Err(Failure::Usage(
            "say when it fires: --cron '0 9 * * MON-FRI', or --cron '@every 90s'".into(),
        ));
    }
    let payload = flags.payload.as_deref().map(payload).transpose()?;
    show(&client.create_schedule(&named.of, &named.name, flags.patch(payload)).await?, json)
}
