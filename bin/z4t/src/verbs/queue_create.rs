//! `queue create QUEUE`: makes a queue before its first task, and shows what was set.

use z4_client::Client;

use super::queue_set::show;
use crate::args::SettingFlags;
use crate::failure::Failure;

pub(super) async fn run(
    client: &Client,
    name: &str,
    settings: SettingFlags,
    json: bool,
) -> Result<(), Failure> {
    show(&client.create_queue(name, settings.patch()).await?, json)
}
