//! `health`: does the host serve? For probes: exit code 0 if it does, 6 if not. What else is wrong with a host that
//! serves is told on stderr, or as `warnings` of the JSON, and changes no exit code.

use serde_json::json;
use z4_client::{Client, Health};

use crate::failure::Failure;
use crate::output;

pub(super) async fn run(client: &Client, json: bool) -> Result<(), Failure> {
    let health = client.health("").await?;
    let word = match health {
        Health::Serving => "serving",
        Health::NotServing => "not serving",
        Health::Unknown => "unknown",
    };
    // Whoever does not serve has told the worst; and of a host that does, nothing that fails here says otherwise.
    let warnings = match health {
        Health::Serving => client.ping().await.map(|ping| ping.warnings).unwrap_or_default(),
        Health::NotServing | Health::Unknown => Vec::new(),
    };
    if json {
        output::json(&json!({ "status": word, "warnings": warnings }))?;
    } else {
        output::line(word)?;
        warnings.iter().for_each(|warning| output::talk(format_args!("warning: {warning}")));
    }
    match health {
        Health::Serving => Ok(()),
        Health::NotServing | Health::Unknown => {
            Err(Failure::NotServing("the host is there and does not serve; its log says why".to_owned()))
        }
    }
}
