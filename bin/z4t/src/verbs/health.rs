//! `health`: does the host serve? For probes: exit code 0 if it does, 6 if not.

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
    if json {
        output::json(&json!({ "status": word }))?;
    } else {
        output::line(word)?;
    }
    match health {
        Health::Serving => Ok(()),
        Health::NotServing | Health::Unknown => {
            Err(Failure::NotServing("the host is there and does not serve; its log says why".to_owned()))
        }
    }
}
