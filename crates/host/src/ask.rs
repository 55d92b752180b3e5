//! What hosts ask each other beside the frames of their groups: who are you, be a member, let me be one, change the
//! registry, what time is it. Bytes: `docs/FORMATS.md`, "Questions between hosts". Pure.
//!
//! # Not here
//! - Asking and answering: `cluster/`. Who asks: the handshake of the transport says it.

use z4_registry::{Command, Refusal, Registry};
use z4_types::{HostId, Kind, Millis, ShardId};

const VERSION: u8 = 1;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// Who are you?
    Greet,
    /// You are a member of the cluster of this registry.
    Adopt(Registry),
    /// I want to be a member.
    Join {
        /// host:port of the asker's peer port.
        address: String,
        /// host:port of its gRPC door.
        service: String,
    },
    /// Change the registry.
    Command(Command),
    /// Who leads the shards that you have replicas of?
    Leaders,
    /// What time is it by your wall clock?
    Clock,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To a greeting.
    Greeting(Greeting),
    /// It is done.
    Done,
    /// The asker is a member of this cluster.
    Registry(Registry),
    /// The registry refuses it.
    Refused(Refusal),
    /// The leader of shard 0 is elsewhere, if that is known: host and peer address.
    Elsewhere(Option<(HostId, String)>),
    /// It was proposed and the outcome is lost.
    Unknown,
    /// It was not done.
    Failed(Kind, String),
    /// Leaders by shard, as replica ids.
    Leaders(Vec<(ShardId, u64)>),
    /// The wall clock.
    Clock(Millis),
}

/// What a host says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// Whether it belongs to a cluster; the handshake says to which.
    pub(crate) member: bool,
    /// The asker's instance as this host's registry knows it, 0 for none.
    pub(crate) your_instance: u64,
    /// Whether it knows a leader of shard 0.
    pub(crate) led: bool,
}

/// The bytes are no question (or answer) of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what another host says cannot be read: {0}; do both run versions of z4 that know each other?")]
pub(crate) struct Malformed(&'static str);

impl Question {
    /// Returns the question's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Greet => out.push(1),
            Self::Adopt(registry) => {
                out.push(2);
                put(&mut out, &registry.encode());
            }
            Self::Join { address, service } => {
                out.push(3);
                put(&mut out, address.as_bytes());
                put(&mut out, service.as_bytes());
            }
            Self::Command(command) => {
                out.push(4);
                put(&mut out, &command.encode());
            }
            Self::Leaders => out.push(5),
            Self::Clock => out.push(6),
        }
        out
    }

    /// Reads what [`Question::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not that.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::versioned(bytes)?;
        let question = match input.u8()? {
            1 => Self::Greet,
            2 => Self::Adopt(input.registry()?),
            3 => Self::Join { address: input.text()?, service: input.text()? },
            4 => Self::Command(
                Command::decode(input.bytes()?).map_err(|_| Malformed("a command it does not know"))?,
            ),
            5 => Self::Leaders,
            6 => Self::Clock,
            _ => return Err(Malformed("a question it does not know")),
        };
        input.end()?;
        Ok(question)
    }
}

impl Answer {
    /// Returns the answer's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Greeting(Greeting { member, your_instance, led }) => {
                out.extend_from_slice(&[1, u8::from(*member)]);
                out.extend_from_slice(&your_instance.to_le_bytes());
                out.push(u8::from(*led));
            }
            Self::Done => out.push(2),
            Self::Registry(registry) => {
                out.push(3);
                put(&mut out, &registry.encode());
            }
            Self::Refused(refusal) => {
                out.push(4);
                put_refusal(&mut out, refusal);
            }
            Self::Elsewhere(leader) => {
                out.push(5);
                let (host, address) =
                    leader.as_ref().map_or(("", ""), |(host, address)| (host.0.as_str(), address));
                put(&mut out, host.as_bytes());
                put(&mut out, address.as_bytes());
            }
            Self::Unknown => out.push(6),
            Self::Failed(kind, text) => {
                out.extend_from_slice(&[7, kind_number(*kind)]);
                put(&mut out, text.as_bytes());
            }
            Self::Leaders(leaders) => {
                out.push(8);
                out.extend_from_slice(&count(leaders.len()));
                for (shard, replica) in leaders {
                    out.extend_from_slice(&shard.0.to_le_bytes());
                    out.extend_from_slice(&replica.to_le_bytes());
                }
            }
            Self::Clock(wall) => {
                out.push(9);
                out.extend_from_slice(&wall.0.to_le_bytes());
            }
        }
        out
    }

    /// Reads what [`Answer::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not that.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::versioned(bytes)?;
        let answer = match input.u8()? {
            1 => Self::Greeting(Greeting {
                member: input.flag()?,
                your_instance: input.u64()?,
                led: input.flag()?,
            }),
            2 => Self::Done,
            3 => Self::Registry(input.registry()?),
            4 => Self::Refused(input.refusal()?),
            5 => {
                let (host, address) = (input.host()?, input.text()?);
                Self::Elsewhere((!host.0.is_empty()).then_some((host, address)))
            }
            6 => Self::Unknown,
            7 => Self::Failed(input.kind()?, input.text()?),
            8 => {
                let mut leaders = Vec::new();
                for _ in 0..input.u32()? {
                    leaders.push((ShardId(input.u32()?), input.u64()?));
                }
                Self::Leaders(leaders)
            }
            9 => Self::Clock(Millis(input.u64()?)),
            _ => return Err(Malformed("an answer it does not know")),
        };
        input.end()?;
        Ok(answer)
    }
}

/// Every kind, by its number on the wire from 1.
const KINDS: [Kind; 10] = [
    Kind::Invalid,
    Kind::Unsupported,
    Kind::NotFound,
    Kind::AlreadyExists,
    Kind::Conflict,
    Kind::Unavailable,
    Kind::Overloaded,
    Kind::OutcomeUnknown,
    Kind::Corrupt,
    Kind::Internal,
];

fn kind_number(kind: Kind) -> u8 {
    let at = KINDS.iter().position(|each| *each == kind).unwrap_or(KINDS.len() - 1);
    at as u8 + 1
}

fn put_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    let (number, texts, tail): (u8, Vec<&str>, Vec<u8>) = match refusal {
        Refusal::Invalid(text) => (1, vec![text], Vec::new()),
        Refusal::NotFound(host) => (2, vec![&host.0], Vec::new()),
        Refusal::AlreadyMember { host, address } => (3, vec![&host.0, address], Vec::new()),
        Refusal::AddressInUse { address, host } => (4, vec![address, &host.0], Vec::new()),
        Refusal::LastVoter(host) => (5, vec![&host.0], Vec::new()),
        Refusal::WrongInstance(host) => (6, vec![&host.0], Vec::new()),
        Refusal::Removed(host) => (7, vec![&host.0], Vec::new()),
        Refusal::StillMoving(shard) => (8, Vec::new(), shard.0.to_le_bytes().to_vec()),
        Refusal::OnlyReplica { host, shard } => (9, vec![&host.0], shard.0.to_le_bytes().to_vec()),
        Refusal::TooManyHosts(hosts) => (10, Vec::new(), (*hosts as u64).to_le_bytes().to_vec()),
        Refusal::NoPolicy(pattern) => (11, vec![pattern], Vec::new()),
        Refusal::TooManyPolicies(policies) => (12, Vec::new(), (*policies as u64).to_le_bytes().to_vec()),
        // The registry's refusals may grow; the text of one that has no number is kept.
        other => return put_refusal(out, &Refusal::Invalid(other.to_string())),
    };
    out.push(number);
    texts.iter().for_each(|text| put(out, text.as_bytes()));
    out.extend_from_slice(&tail);
}

fn count(count: usize) -> [u8; 4] {
    u32::try_from(count).expect("what hosts say is short").to_le_bytes()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&count(bytes.len()));
    out.extend_from_slice(bytes);
}

/// Takes fields off the front of bytes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn versioned(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(Self(rest)),
            Some(_) => Err(Malformed("another version")),
            None => Err(Malformed("no bytes")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed("cut short"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        let (head, tail) = self.0.split_at_checked(length).ok_or(Malformed("cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed("text that is not UTF-8"))
    }

    fn host(&mut self) -> Result<HostId, Malformed> {
        self.text().map(HostId)
    }

    fn registry(&mut self) -> Result<Registry, Malformed> {
        let registry =
            Registry::decode(self.bytes()?).map_err(|_| Malformed("a registry it does not know"))?;
        registry.check().map_err(|_| Malformed("a registry that breaks its own rules"))?;
        Ok(registry)
    }

    fn kind(&mut self) -> Result<Kind, Malformed> {
        let number = usize::from(self.u8()?);
        number.checked_sub(1).and_then(|at| KINDS.get(at)).copied().ok_or(Malformed("an unknown kind"))
    }

    fn refusal(&mut self) -> Result<Refusal, Malformed> {
        Ok(match self.u8()? {
            1 => Refusal::Invalid(self.text()?),
            2 => Refusal::NotFound(self.host()?),
            3 => Refusal::AlreadyMember { host: self.host()?, address: self.text()? },
            4 => Refusal::AddressInUse { address: self.text()?, host: self.host()? },
            5 => Refusal::LastVoter(self.host()?),
            6 => Refusal::WrongInstance(self.host()?),
            7 => Refusal::Removed(self.host()?),
            8 => Refusal::StillMoving(ShardId(self.u32()?)),
            9 => Refusal::OnlyReplica { host: self.host()?, shard: ShardId(self.u32()?) },
            10 => Refusal::TooManyHosts(usize::try_from(self.u64()?).unwrap_or(usize::MAX)),
            11 => Refusal::NoPolicy(self.text()?),
            12 => Refusal::TooManyPolicies(usize::try_from(self.u64()?).unwrap_or(usize::MAX)),
            _ => return Err(Malformed("a refusal it does not know")),
        })
    }

    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }
}

#[cfg(test)]
mod tests;
