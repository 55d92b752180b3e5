//! Who speaks, if the first bytes are not ours: the mistakes operators make with ports, each with its remedy.
//!
//! Two ports of a host are easily confused: gRPC clients dial the peer port, and a host is given another host's gRPC
//! address. Both would look like garbage. A few bytes are enough to tell them apart, so the error can say what to do.

use std::fmt;

/// Bytes after which [`Foreign::of`] can tell.
pub(crate) const TELLING_BYTES: usize = 6;

/// A speaker of another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// HTTP/2, so most likely gRPC: a client's preface, or a server's SETTINGS or GOAWAY.
    Http2,
    /// HTTP/1: a browser, a scraper, or a server that answers one.
    Http1,
    /// TLS, on either side.
    Tls,
    /// Nothing we know.
    Unknown,
}

impl Foreign {
    /// Returns who begins with `bytes`; six of them are enough.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        const METHODS: [&[u8]; 8] =
            [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE", b"OPTION", b"PATCH ", b"HTTP/"];
        match bytes {
            [b'P', b'R', b'I', b' ', b'*', ..] => Self::Http2,
            // A SETTINGS (4) or GOAWAY (7) frame: length of three bytes, type, flags, stream zero.
            [0, 0, _, 4 | 7, 0, 0, ..] => Self::Http2,
            // Handshake (22) or alert (21) of TLS 1.x.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Self::Http1,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http2 | Self::Http1 => "this is a gRPC or HTTP port; use the peer port (6356 by default)",
            Self::Tls => "this port speaks TLS and this host does not; give both the same TLS settings",
            Self::Unknown => "something answers that is not z4; check the address",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_bytes_tell_who_speaks() {
        for (bytes, expected) in [
            (&b"PRI * HTTP/2.0\r\n"[..], Foreign::Http2),
            (&[0, 0, 18, 4, 0, 0, 0, 0, 0], Foreign::Http2),
            (&[0, 0, 8, 7, 0, 0], Foreign::Http2),
            (b"GET / HTTP/1.1", Foreign::Http1),
            (b"HTTP/1.1 400 Bad Request", Foreign::Http1),
            (b"DELETE / HTTP/1.1", Foreign::Http1),
            (&[0x16, 3, 1, 2, 0, 1], Foreign::Tls),
            (&[0x15, 3, 3, 0, 2, 2], Foreign::Tls),
            (b"SSH-2.0-OpenSSH", Foreign::Unknown),
            (b"", Foreign::Unknown),
            (b"z4peer", Foreign::Unknown),
        ] {
            assert_eq!(Foreign::of(&bytes[..bytes.len().min(TELLING_BYTES)]), expected, "{bytes:?}");
        }
        assert!(Foreign::Http1.to_string().contains("use the peer port (6356 by default)"));
    }
}
