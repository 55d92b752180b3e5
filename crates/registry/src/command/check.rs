//! Which values a command may carry. The registry holds them for ever, and prints them.

use std::collections::BTreeMap;

use z4_types::HostId;

use crate::limits::{POLICY_BYTES_MAX, REPLICATION_MAX, TAGS_MAX, TEXT_BYTES_MAX};
use crate::refusal::Refusal;

/// A host's name can be written into the `HOST` file as it is.
pub(crate) fn host(host: &HostId) -> Result<(), Refusal> {
    text("a host id", &host.0)?;
    if host.0.is_empty() || host.0.trim() != host.0 {
        return Err(invalid("a host id is not empty and does not begin or end with space".into()));
    }
    Ok(())
}

/// host:port.
pub(crate) fn address(address: &str) -> Result<(), Refusal> {
    text("an address", address)?;
    match address.rsplit_once(':') {
        Some((name, port))
            if !name.is_empty() && !name.contains(char::is_whitespace) && port.parse::<u16>().is_ok() =>
        {
            Ok(())
        }
        _ => Err(invalid(format!("{address:?} is no address; write host:port, as in peer2:6356"))),
    }
}

/// host:port, or nothing.
pub(crate) fn service(service: &str) -> Result<(), Refusal> {
    if service.is_empty() { Ok(()) } else { address(service) }
}

/// Few and short.
pub(crate) fn tags(tags: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if tags.len() > TAGS_MAX {
        return Err(invalid(format!("a host has at most {TAGS_MAX} tags, these are {}", tags.len())));
    }
    tags.iter().try_for_each(|(key, value)| text("a tag", key).and(text("a tag", value)))
}

/// A data directory has drawn one.
pub(crate) fn instance(instance: u64) -> Result<(), Refusal> {
    if instance == 0 { Err(invalid("an instance number is not zero".into())) } else { Ok(()) }
}

/// Within its limits.
pub(crate) fn replication(replication: u32) -> Result<(), Refusal> {
    if (1..=REPLICATION_MAX).contains(&replication) {
        return Ok(());
    }
    Err(invalid(format!("replication is 1 to {REPLICATION_MAX}, not {replication}; odd numbers are best")))
}

/// A pattern that can match a name: the doors say more of its form. Settings of some size.
pub(crate) fn policy(pattern: &str, settings: &[u8]) -> Result<(), Refusal> {
    text("a pattern", pattern)?;
    if pattern.is_empty() {
        return Err(invalid("a pattern is not empty; `*` stands for all queues".into()));
    }
    if settings.len() > POLICY_BYTES_MAX {
        return Err(invalid(format!(
            "settings have at most {POLICY_BYTES_MAX} bytes, these have {}",
            settings.len()
        )));
    }
    Ok(())
}

fn text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(invalid(format!(
            "{what} has at most {TEXT_BYTES_MAX} bytes, this one has {}",
            text.len()
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(format!("{what} has no control characters: {text:?}")));
    }
    Ok(())
}

fn invalid(text: String) -> Refusal {
    Refusal::Invalid(text)
}
