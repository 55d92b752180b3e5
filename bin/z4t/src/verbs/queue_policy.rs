//! `queue policy set|list|delete`: settings by name pattern.

use serde_json::{Value, json};
use z4_client::{Client, Policy};

use crate::args::{PolicyVerb, SettingFlags};
use crate::failure::Failure;
use crate::output;
use crate::settings::{fields, text};

pub(super) async fn run(client: &Client, verb: PolicyVerb, json: bool) -> Result<(), Failure> {
    match verb {
        PolicyVerb::Set { pattern, settings } => set(client, &pattern, *settings, json).await,
        PolicyVerb::List => list(client, json).await,
        PolicyVerb::Delete { pattern } => {
            client.delete_policy(&pattern).await?;
            if json {
                output::json(&json!({ "pattern": pattern, "deleted": true }))
            } else {
                output::line("policy deleted")
            }
        }
    }
}

async fn set(client: &Client, pattern: &str, settings: SettingFlags, json: bool) -> Result<(), Failure> {
    let patch = settings.patch();
    if patch.is_empty() {
        return Err(Failure::Usage("give at least one setting; see --help".to_owned()));
    }
    let policy = client.set_policy(pattern, patch).await?;
    if json {
        return output::json(&policy_json(&policy));
    }
    let set = policy.settings.as_ref().map(fields).unwrap_or_default();
    let pairs = set.iter().map(|(field, value)| (field.as_str(), text(value)));
    let pairs: Vec<(&str, String)> = [("pattern", policy.pattern.clone())].into_iter().chain(pairs).collect();
    output::fields(&pairs)
}

async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let policies = client.list_policies().await?;
    if json {
        return policies.iter().try_for_each(|policy| output::json(&policy_json(policy)));
    }
    let rows: Vec<[String; 3]> = policies
        .iter()
        .flat_map(|policy| {
            let set = policy.settings.as_ref().map(fields).unwrap_or_default();
            set.into_iter()
                .map(|(field, value)| [policy.pattern.clone(), field, text(&value)])
                .collect::<Vec<_>>()
        })
        .collect();
    output::table(["PATTERN", "SETTING", "VALUE"], &rows)
}

fn policy_json(policy: &Policy) -> Value {
    let settings = policy.settings.as_ref().map(fields).unwrap_or_default();
    json!({ "pattern": policy.pattern, "settings": settings })
}
