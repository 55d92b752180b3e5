//! `schedule set QUEUE NAME`: changes what is named of a schedule, and shows it.

use z4_client::Client;

use super::task_push::payload;
use crate::args::ScheduleSet;
use crate::failure::Failure;
use crate::schedules::{field_of, show};

pub(super) async fn run(client: &Client, set: ScheduleSet, json: bool) -> Result<(), Failure> {
    let ScheduleSet { named, flags, unset, if_etag, create } = set;
    let payload = flags.payload.as_deref().map(payload).transpose()?;
    let mut patch = unset.iter().fold(flags.patch(payload), |patch, name| patch.unset(field_of(name)));
    if patch.is_empty() {
        return Err(Failure::Usage("give something to change, or one to --unset; see --help".to_owned()));
    }
    if let Some(etag) = if_etag {
        patch = patch.if_etag(etag);
    }
    if create {
        patch = patch.or_create();
    }
    show(&client.update_schedule(&named.of, &named.name, patch).await?, json)
}
