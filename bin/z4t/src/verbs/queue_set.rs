//! `queue set QUEUE`: changes the settings that are named, and shows what was set since ever.

use z4_client::{Client, QueueConfig};

use crate::args::QueueSet;
use crate::failure::Failure;
use crate::output;
use crate::settings::{config_json, field_of, fields, paused, text};

pub(super) async fn run(client: &Client, set: QueueSet, json: bool) -> Result<(), Failure> {
    let QueueSet { name, settings, unset, if_etag, create } = set;
    let mut patch = unset.iter().fold(settings.patch(), |patch, name| patch.unset(field_of(name)));
    if patch.is_empty() && !create {
        return Err(Failure::Usage("give a setting to change, or one to --unset; see --help".to_owned()));
    }
    if let Some(etag) = if_etag {
        patch = patch.if_etag(etag);
    }
    if create {
        patch = patch.or_create();
    }
    show(&client.update_queue(&name, patch).await?, json)
}

/// Prints what was set of a queue.
pub(super) fn show(config: &QueueConfig, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&config_json(config));
    }
    let mut pairs =
        vec![("queue".to_owned(), config.queue.clone()), ("etag".to_owned(), config.etag.clone())];
    pairs.extend(paused(config).map(|why| ("paused".to_owned(), why)));
    let set = config.settings.as_ref().map(fields).unwrap_or_default();
    pairs.extend(set.iter().map(|(field, value)| (field.clone(), text(value))));
    let pairs: Vec<(&str, String)> =
        pairs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    output::fields(&pairs)
}
