//! Values: what a source holds, what a setting takes, and the one line when these differ.

use std::net::IpAddr;

/// What a source holds. Flags and the environment hold text only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    Text(String),
    Number(i128),
    Bool(bool),
    /// Something no setting takes, by its name: a list, a table.
    Other(&'static str),
}

/// What a setting takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// 1 to 255 printable characters without spaces: it stands in files, logs and lists.
    Name,
    Path,
    Bool,
    Port,
    Ip,
    /// host:port
    Address,
    /// host:port,…
    Addresses,
    /// id=host:port,…
    Peers,
    Count {
        least: u64,
        most: u64,
    },
    /// A number, or one with a unit: 64MiB.
    Bytes {
        least: u64,
    },
    OneOf(&'static [&'static str]),
}

/// A value that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
    Bool(bool),
}

const NAME_CHARS_MAX: usize = 255;
const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Returns what `raw` means to a setting of `kind`.
///
/// # Errors
/// What is wrong with it, for the end of a line that names source and key.
pub(crate) fn parse(kind: Kind, raw: &Raw) -> Result<Value, String> {
    let wrong = |wanted: &str| Err(format!("{} is not {wanted}", show(raw)));
    match (kind, raw) {
        (Kind::Bool, Raw::Bool(value)) => Ok(Value::Bool(*value)),
        (Kind::Bool, Raw::Text(text)) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::Bool(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Bool(false)),
            _ => wrong("true or false"),
        },
        (Kind::Bool, _) => wrong("true or false"),
        (Kind::Port, _) => match number(raw) {
            Some(port) if port <= u64::from(u16::MAX) => Ok(Value::Number(port)),
            _ => wrong("a port, 0 to 65535"),
        },
        (Kind::Count { least, most }, _) => match number(raw) {
            Some(count) if (least..=most).contains(&count) => Ok(Value::Number(count)),
            _ => wrong(&format!("a number from {least} to {most}")),
        },
        (Kind::Bytes { least }, _) => match bytes(raw) {
            Some(bytes) if bytes >= least => Ok(Value::Number(bytes)),
            _ => wrong(&format!("a size such as 64MiB, at least {}", bytes_text(least))),
        },
        (_, Raw::Text(text)) => parse_text(kind, text).map_or_else(wrong, |()| Ok(Value::Text(text.clone()))),
        _ => wrong("text; write it in quotes"),
    }
}

/// Checks a text.
///
/// # Errors
/// What was wanted.
fn parse_text(kind: Kind, text: &str) -> Result<(), &'static str> {
    let printable = |c: char| !c.is_control() && !c.is_whitespace();
    match kind {
        Kind::Name if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.chars().all(printable) => {
            Err("a name: 1 to 255 bytes without spaces and control characters")
        }
        Kind::Path if text.is_empty() || text.contains('\0') => Err("a path"),
        Kind::Ip if text.parse::<IpAddr>().is_err() => Err("an IP address such as 127.0.0.1 or ::"),
        Kind::Address if !is_address(text) => Err("host:port"),
        Kind::Addresses if !addresses(text).iter().all(|address| is_address(address)) => {
            Err("a list of host:port, separated by commas")
        }
        Kind::Peers if peers(text).is_none() => {
            Err("a list of id=host:port, separated by commas, as in a=host-a:6356,b=host-b:6356")
        }
        Kind::OneOf(choices) if !choices.contains(&text) => Err(match choices {
            ["thread", "inline"] => "thread or inline",
            _ => "one of the choices",
        }),
        _ => Ok(()),
    }
}

/// Returns the parts of a list; spaces around them do not count.
pub(crate) fn addresses(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).collect()
}

/// Returns the ids and addresses in a list of peers; None if it is not one.
pub(crate) fn peers(text: &str) -> Option<Vec<(&str, &str)>> {
    let peer = |part| {
        let (id, address): (&str, &str) = str::split_once(part, '=')?;
        let (id, address) = (id.trim(), address.trim());
        (parse_text(Kind::Name, id).is_ok() && is_address(address)).then_some((id, address))
    };
    addresses(text).into_iter().map(peer).collect()
}

/// Returns bytes with the largest unit that divides them.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let unit = UNITS[..3].iter().rev().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size));
    unit.map_or_else(|| bytes.to_string(), |(unit, size)| format!("{}{unit}", bytes / size))
}

impl Value {
    /// Returns the value as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
            Self::Bool(value) => (*value).into(),
        }
    }
}

fn number(raw: &Raw) -> Option<u64> {
    match raw {
        Raw::Number(number) => u64::try_from(*number).ok(),
        Raw::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn bytes(raw: &Raw) -> Option<u64> {
    let Raw::Text(text) = raw else { return number(raw) };
    let text = text.trim();
    for (unit, size) in UNITS {
        if let Some(count) = text.strip_suffix(unit) {
            return count.trim().parse::<u64>().ok()?.checked_mul(size);
        }
    }
    text.parse().ok()
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    })
}

fn show(raw: &Raw) -> String {
    match raw {
        Raw::Text(text) => format!("{text:?}"),
        Raw::Number(number) => number.to_string(),
        Raw::Bool(value) => value.to_string(),
        Raw::Other(what) => (*what).to_owned(),
    }
}
