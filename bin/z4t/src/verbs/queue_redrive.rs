//! `queue redrive QUEUE`: gives the dead tasks of a queue all their attempts again.

use z4_client::{Client, Selection};

use super::{Chosen, task_redrive};
use crate::args::QueueRedrive;
use crate::failure::Failure;

pub(super) async fn run(client: &Client, redrive: QueueRedrive, json: bool) -> Result<(), Failure> {
    let QueueRedrive { name: queue, filter, rate, dry_run } = redrive;
    let selection = Selection { queue, filter, dry_run, page_token: String::new() };
    task_redrive::run(client, Chosen::All(selection), rate, json).await
}
