//! `task run ID…` and `task run -q QUEUE --filter FILTER`: makes waiting tasks due at once.

use z4_client::Client;

use super::{Chosen, matched};
use crate::failure::Failure;

pub(super) async fn run(client: &Client, chosen: Chosen, json: bool) -> Result<(), Failure> {
    match chosen {
        Chosen::Ids(ids, etag) => {
            let call = |targets: Vec<_>| async move { client.run(&targets).await };
            matched::each(&ids, etag.as_deref(), "due", json, call).await
        }
        Chosen::All(selection) => {
            let call = |selection| async move { client.run_all(&selection).await };
            matched::all(selection, "due", json, call).await
        }
    }
}
