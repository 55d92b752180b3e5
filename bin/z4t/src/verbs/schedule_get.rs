//! `schedule get QUEUE NAME`: one schedule, with its next slot and what became of the others.

use z4_client::Client;

use crate::args::Named;
use crate::failure::Failure;
use crate::schedules::show;

pub(super) async fn run(client: &Client, named: &Named, json: bool) -> Result<(), Failure> {
    show(&client.schedule(&named.of, &named.name).await?, json)
}
