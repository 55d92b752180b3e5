//! Values of the config rows and of the policies row: what was set of queues, and by name pattern.

use z4_types::Millis;

use crate::codec::{Malformed, Reader, put_long_text, put_u64};
use crate::queue::Paused;
use crate::settings::{Policies, Settings};

const VERSION: u8 = 1;

const PAUSED: u8 = 1;
/// By the circuit breaker, until a time.
const UNTIL: u8 = 2;

/// What was set of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// Changes of the settings since the queue was made; the queue's etag.
    pub(crate) revision: u64,
    pub(crate) paused: Option<Paused>,
    pub(crate) settings: Settings,
}

impl Config {
    /// Appends the row's value.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_u64(out, self.revision);
        let until = self.paused.as_ref().and_then(|paused| paused.until);
        out.push(if self.paused.is_some() { PAUSED } else { 0 } | if until.is_some() { UNTIL } else { 0 });
        if let Some(Paused { since, note, author, until }) = &self.paused {
            put_u64(out, since.0);
            put_long_text(out, note);
            put_long_text(out, author);
            if let Some(until) = until {
                put_u64(out, until.0);
            }
        }
        self.settings.put(out);
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u8("config version")? != VERSION {
            return Err(Malformed("unknown config version"));
        }
        let revision = reader.u64("config revision")?;
        let flags = reader.u8("config flags")?;
        let paused = match flags {
            0 => None,
            _ if flags & PAUSED != 0 && flags & !(PAUSED | UNTIL) == 0 => Some(Paused {
                since: Millis(reader.u64("paused since")?),
                note: reader.long_text("pause note")?.to_owned(),
                author: reader.long_text("pause author")?.to_owned(),
                until: if flags & UNTIL != 0 { Some(Millis(reader.u64("paused until")?)) } else { None },
            }),
            _ => return Err(Malformed("unknown config flags")),
        };
        let settings = Settings::read(&mut reader)?;
        reader.end("bytes behind a config")?;
        Ok(Self { revision, paused, settings })
    }
}

/// Appends the value of the policies row.
pub(crate) fn write_policies(policies: &Policies, out: &mut Vec<u8>) {
    out.push(VERSION);
    policies.put(out);
}

pub(crate) fn read_policies(value: &[u8]) -> Result<Policies, Malformed> {
    let mut reader = Reader::new(value);
    if reader.u8("policies version")? != VERSION {
        return Err(Malformed("unknown policies version"));
    }
    let policies = Policies::read(&mut reader)?;
    reader.end("bytes behind the policies row")?;
    Ok(policies)
}
