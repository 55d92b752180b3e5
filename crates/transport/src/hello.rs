//! What two hosts say to each other before the first frame: who they are, what for, and yes or no.
//!
//! The dialer's hello and the acceptor's reply share one envelope, which keeps its layout in all versions: so a host
//! of any version can read any hello, and say in words why it refuses. Later versions append fields to the body;
//! readers ignore what follows the fields they know. Layout: `docs/FORMATS.md`, "Peer protocol". Pure.
//!
//! # Not here
//! - Who is acceptable: the host decides, see [`crate::Handler::admit`].

use std::fmt;
use std::ops::RangeInclusive;

use bytes::{BufMut, BytesMut};
use z4_types::{ClusterId, HostId};

use crate::foreign::Foreign;

/// The first bytes on every connection, in both directions.
pub(crate) const MAGIC: &[u8; 6] = b"z4peer";
/// Versions of the protocol this program speaks.
pub(crate) const VERSIONS: RangeInclusive<u16> = 1..=1;
/// Bytes before the body of a hello or a reply.
pub(crate) const ENVELOPE_BYTES: usize = 16;
/// Longest body of a hello or a reply.
pub(crate) const BODY_BYTES_MAX: usize = 4_096;
/// Longest name or address in a hello, bytes: a DNS name and a port have 259.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest text of a refusal, bytes; longer ones are cut at a character boundary.
const TEXT_BYTES_MAX: usize = 512;
/// Longest refusal in a [`crate::frame::Kind::Bye`].
pub(crate) const REFUSAL_BYTES_MAX: usize = 1 + TEXT_BYTES_MAX;

/// Which of the two connections towards a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Small frames that must not wait: heartbeats, votes.
    Urgent,
    /// Everything else: entries, snapshots.
    Bulk,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Frames from the dialer to the acceptor, until one of them leaves.
    Lane(Lane),
    /// One question and its answer. Allowed before the dialer is a member.
    Ask,
}

/// Who a host is. Both sides of a handshake say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; zero if the host has none yet.
    pub cluster: ClusterId,
    /// The operator's name of the cluster.
    pub cluster_name: String,
    /// The host.
    pub host: HostId,
    /// Drawn when the host's data directory was formed; another disk under the same name has another one.
    pub instance: u64,
    /// host:port by which others reach this host's peer port.
    pub address: String,
}

/// The dialer's side of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Versions the dialer speaks.
    pub versions: RangeInclusive<u16>,
    /// Who dials.
    pub identity: Identity,
    /// Whom the dialer wants to reach; none takes anyone.
    pub expects: Option<HostId>,
    /// What for.
    pub purpose: Purpose,
}

/// The acceptor's side of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The chosen version, or the versions the acceptor speaks if it refuses.
    pub versions: RangeInclusive<u16>,
    /// Who answers, also if it refuses.
    pub identity: Identity,
    /// Yes, or why not.
    pub verdict: Result<(), Refusal>,
}

/// Why a host does not talk to another, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The two belong to different clusters.
    WrongCluster,
    /// No version of the protocol is spoken by both.
    VersionUnsupported,
    /// The cluster never had such a host.
    UnknownHost,
    /// The host was removed from the cluster.
    Removed,
    /// The name is known with another data directory.
    WrongInstance,
    /// The dialer wanted another host: an address has changed hands.
    NotForYou,
    /// Too many connections wait for an answer.
    Busy,
    /// The host is stopping.
    Closing,
    /// The same host has opened this lane anew.
    Replaced,
    /// What arrived was damaged or against the protocol.
    Broken,
    /// A reason of a later version.
    Other(u8),
}

/// A refusal: for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {text}")]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people: what was found, what was expected, what to do.
    pub text: String,
}

/// Why bytes are not a hello or a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// Another protocol.
    #[error("{0}")]
    Foreign(Foreign),
    /// The body is longer than any version makes it.
    #[error("a hello of {0} bytes, where {BODY_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The checksum does not match.
    #[error("a hello does not match its checksum")]
    Checksum,
    /// The body ends early, or a text is not UTF-8 or too long.
    #[error("a hello does not hold what its version promises")]
    Body,
}

/// The fixed part before a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    versions: RangeInclusive<u16>,
    /// Bytes of the body that follows.
    pub body_len: usize,
    seed: u32,
    crc: u32,
}

impl Refusal {
    /// Returns a refusal.
    #[must_use]
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// Returns the body of a `Bye`.
    pub(crate) fn encode(&self) -> BytesMut {
        let text = cut(&self.text);
        let mut out = BytesMut::with_capacity(1 + text.len());
        out.put_u8(self.reason.code());
        out.put_slice(text.as_bytes());
        out
    }

    /// Reads the body of a `Bye`.
    pub(crate) fn decode(body: &[u8]) -> Self {
        match body.split_first() {
            Some((code, text)) => Self::new(Reason::from_code(*code), String::from_utf8_lossy(text)),
            None => Self::new(Reason::Closing, "no reason was given"),
        }
    }
}

/// Returns as much of `text` as a refusal carries.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Reason {
    const ALL: [Self; 10] = [
        Self::WrongCluster,
        Self::VersionUnsupported,
        Self::UnknownHost,
        Self::Removed,
        Self::WrongInstance,
        Self::NotForYou,
        Self::Busy,
        Self::Closing,
        Self::Replaced,
        Self::Broken,
    ];

    /// Never zero: that is "yes" in a reply.
    fn code(self) -> u8 {
        match self {
            Self::WrongCluster => 1,
            Self::VersionUnsupported => 2,
            Self::UnknownHost => 3,
            Self::Removed => 4,
            Self::WrongInstance => 5,
            Self::NotForYou => 6,
            Self::Busy => 7,
            Self::Closing => 8,
            Self::Replaced => 9,
            Self::Broken => 10,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|reason| reason.code() == code).unwrap_or(Self::Other(code))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongCluster => f.write_str("wrong cluster"),
            Self::VersionUnsupported => f.write_str("no common version"),
            Self::UnknownHost => f.write_str("unknown host"),
            Self::Removed => f.write_str("removed host"),
            Self::WrongInstance => f.write_str("wrong instance"),
            Self::NotForYou => f.write_str("wrong host"),
            Self::Busy => f.write_str("busy"),
            Self::Closing => f.write_str("closing"),
            Self::Replaced => f.write_str("replaced"),
            Self::Broken => f.write_str("broken connection"),
            Self::Other(code) => write!(f, "reason {code}"),
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Urgent => "urgent",
            Self::Bulk => "bulk",
        })
    }
}

impl Identity {
    /// Returns true if every name fits a hello.
    pub(crate) fn fits(&self) -> bool {
        [&self.cluster_name, &self.host.0, &self.address].iter().all(|name| name.len() <= NAME_BYTES_MAX)
            && !self.host.0.is_empty()
    }

    fn put(&self, body: &mut BytesMut) {
        assert!(self.fits(), "identities are checked before the first hello");
        body.put_u128_le(self.cluster.0);
        body.put_u64_le(self.instance);
        put_text(body, &self.cluster_name);
        put_text(body, &self.host.0);
        put_text(body, &self.address);
    }

    fn take(body: &mut Cursor<'_>) -> Option<Self> {
        let cluster = ClusterId(u128::from_le_bytes(body.array()?));
        let instance = u64::from_le_bytes(body.array()?);
        let (cluster_name, host, address) = (body.text()?, HostId(body.text()?), body.text()?);
        Some(Self { cluster, cluster_name, host, instance, address }).filter(Self::fits)
    }
}

impl Purpose {
    fn code(self) -> u8 {
        match self {
            Self::Lane(Lane::Urgent) => 1,
            Self::Lane(Lane::Bulk) => 2,
            Self::Ask => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Lane(Lane::Urgent), Self::Lane(Lane::Bulk), Self::Ask];
        all.into_iter().find(|purpose| purpose.code() == code)
    }
}

impl Hello {
    /// Returns the bytes on the wire.
    pub(crate) fn encode(&self) -> BytesMut {
        let mut body = BytesMut::with_capacity(256);
        body.put_u8(self.purpose.code());
        self.identity.put(&mut body);
        put_text(&mut body, self.expects.as_ref().map_or("", |host| &host.0));
        seal(&self.versions, &body)
    }

    /// Reads the body behind `envelope`.
    ///
    /// # Errors
    /// If it is damaged or incomplete.
    pub(crate) fn decode(envelope: &Envelope, body: &[u8]) -> Result<Self, BadHello> {
        envelope.check(body)?;
        let body = &mut Cursor(body);
        let mut read = || {
            let purpose = Purpose::from_code(body.array::<1>()?[0])?;
            let identity = Identity::take(body)?;
            let expects = Some(body.text()?).filter(|name| !name.is_empty()).map(HostId);
            Some(Self { versions: envelope.versions.clone(), identity, expects, purpose })
        };
        read().ok_or(BadHello::Body)
    }
}

impl Reply {
    /// Returns the bytes on the wire.
    pub(crate) fn encode(&self) -> BytesMut {
        let mut body = BytesMut::with_capacity(256);
        let (code, text) = match &self.verdict {
            Ok(()) => (0, ""),
            Err(refusal) => (refusal.reason.code(), cut(&refusal.text)),
        };
        body.put_u8(code);
        self.identity.put(&mut body);
        put_text(&mut body, text);
        seal(&self.versions, &body)
    }

    /// Reads the body behind `envelope`.
    ///
    /// # Errors
    /// If it is damaged or incomplete.
    pub(crate) fn decode(envelope: &Envelope, body: &[u8]) -> Result<Self, BadHello> {
        envelope.check(body)?;
        let body = &mut Cursor(body);
        let mut read = || {
            let code = body.array::<1>()?[0];
            let identity = Identity::take(body)?;
            let text = body.text()?;
            let verdict = if code == 0 { Ok(()) } else { Err(Refusal::new(Reason::from_code(code), text)) };
            Some(Self { versions: envelope.versions.clone(), identity, verdict })
        };
        read().ok_or(BadHello::Body)
    }
}

impl Envelope {
    /// Reads the fixed part.
    ///
    /// # Errors
    /// If it is of another protocol or announces too much.
    pub(crate) fn read(bytes: &[u8; ENVELOPE_BYTES]) -> Result<Self, BadHello> {
        if &bytes[..6] != MAGIC {
            return Err(BadHello::Foreign(Foreign::of(bytes)));
        }
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let body_len = usize::from(half(10));
        if body_len > BODY_BYTES_MAX {
            return Err(BadHello::TooLong(body_len));
        }
        let crc = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        Ok(Self { versions: half(6)..=half(8), body_len, seed: crc32c::crc32c(&bytes[..12]), crc })
    }

    fn check(&self, body: &[u8]) -> Result<(), BadHello> {
        if crc32c::crc32c_append(self.seed, body) == self.crc { Ok(()) } else { Err(BadHello::Checksum) }
    }
}

/// Returns the highest version in both ranges.
pub(crate) fn common(ours: &RangeInclusive<u16>, theirs: &RangeInclusive<u16>) -> Option<u16> {
    let highest = *ours.end().min(theirs.end());
    (ours.contains(&highest) && theirs.contains(&highest)).then_some(highest)
}

fn seal(versions: &RangeInclusive<u16>, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(ENVELOPE_BYTES + body.len());
    out.put_slice(MAGIC);
    out.put_u16_le(*versions.start());
    out.put_u16_le(*versions.end());
    out.put_u16_le(u16::try_from(body.len()).expect("names and texts are bounded"));
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), body);
    out.put_u32_le(crc);
    out.put_slice(body);
    out
}

fn put_text(body: &mut BytesMut, text: &str) {
    body.put_u16_le(u16::try_from(text.len()).expect("names and texts are bounded"));
    body.put_slice(text.as_bytes());
}

/// What is left of a body.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests;
