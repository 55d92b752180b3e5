//! `task redrive ID…` and `task redrive -q QUEUE --filter FILTER`: gives dead tasks all their attempts again.

use z4_client::Client;

use super::{Chosen, matched};
use crate::failure::Failure;

pub(super) async fn run(
    client: &Client,
    chosen: Chosen,
    rate: Option<f64>,
    json: bool,
) -> Result<(), Failure> {
    match chosen {
        Chosen::Ids(ids, etag) => {
            let call = |targets: Vec<_>| async move { client.redrive(&targets, rate).await };
            matched::each(&ids, etag.as_deref(), "redriven", json, call).await
        }
        Chosen::All(selection) => {
            let call = |selection| async move { client.redrive_all(&selection, rate).await };
            matched::all(selection, "redriven", json, call).await
        }
    }
}
