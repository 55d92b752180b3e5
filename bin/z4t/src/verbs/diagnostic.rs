//! `diagnostic`: what the host knows about itself.

use z4_client::Client;

use crate::failure::Failure;
use crate::output;

pub(super) async fn run(client: &Client) -> Result<(), Failure> {
    let text = client.diagnostic().await?;
    // Indented if it is JSON, as it is otherwise: this is for people who look for a fault.
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value) => output::pretty(&value),
        Err(_) => output::line(text),
    }
}
