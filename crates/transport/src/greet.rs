//! The handshake, from both sides: hello, reply, and nothing before both have agreed.
//!
//! ```text
//! dialer                                              acceptor
//!   hello: versions, who I am, whom I want, what for ──>
//!                          <── reply: yes, or why not; and who I am
//!   checks who answered; a bye if it is the wrong one ──>
//!   frames ──>
//! ```
//! The dialer sends nothing before the reply: what an acceptor has not read when it closes makes TCP reset the
//! connection, and the reason for a refusal would be lost with it.
//!
//! # Not here
//! - Time limits: the callers set them around these functions.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use z4_types::HostId;

use crate::config::Config;
use crate::error::Error;
use crate::foreign::{Foreign, TELLING_BYTES};
use crate::frame::{self, Kind};
use crate::handler::Handler;
use crate::hello::{
    self, BadHello, ENVELOPE_BYTES, Envelope, Hello, Identity, MAGIC, Purpose, Reason, Refusal, Reply,
    VERSIONS,
};
use crate::stream::Stream;

/// Says hello and returns who answered.
///
/// # Errors
/// If the other side refuses, is not the expected one, speaks another protocol, or the connection fails.
pub(crate) async fn dial(
    stream: &mut Stream,
    config: &Config,
    expects: Option<&HostId>,
    purpose: Purpose,
    vet: impl FnOnce(&Identity) -> Result<(), Refusal>,
) -> Result<Identity, Error> {
    let hello = Hello { versions: VERSIONS, identity: config.own(), expects: expects.cloned(), purpose };
    let said = async {
        stream.writer.write_all(&hello.encode()).await?;
        stream.writer.flush().await
    };
    // A listener of another protocol may have closed already; what it said is more telling than the broken pipe.
    let said = said.await;
    let (envelope, body) = match read(&mut *stream.reader).await {
        Err(Error::Closed | Error::Socket(_)) => {
            said?;
            return Err(Error::Closed);
        }
        other => other?,
    };
    let reply = Reply::decode(&envelope, &body)?;
    reply.verdict.map_err(Error::Refused)?;
    let checked = match expects {
        Some(host) if *host != reply.identity.host => Err(Refusal::new(
            Reason::NotForYou,
            format!("expected host {host}, found host {}; check the addresses", reply.identity.host),
        )),
        _ if hello::common(&VERSIONS, &reply.versions).is_none() => {
            Err(Refusal::new(Reason::VersionUnsupported, "the reply chose a version that was not offered"))
        }
        _ => vet(&reply.identity),
    };
    if let Err(refusal) = checked {
        bye(&mut *stream.writer, &refusal).await;
        return Err(Error::Rejected(refusal));
    }
    Ok(reply.identity)
}

/// Hears the hello of someone who dialled us, decides and replies. Returns the hello if the reply was yes.
///
/// # Errors
/// [`Error::Rejected`] if the reply was no; otherwise what arrived was no hello, or the connection failed.
pub(crate) async fn accept(
    stream: &mut Stream,
    config: &Config,
    handler: &Arc<dyn Handler>,
) -> Result<Hello, Error> {
    let (envelope, body) = read(&mut *stream.reader).await?;
    let hello = Hello::decode(&envelope, &body)?;
    let own = &config.own();
    let (versions, verdict) = match hello::common(&VERSIONS, &hello.versions) {
        None => (VERSIONS, Err(no_common_version(&hello))),
        Some(version) => (
            version..=version,
            judge(own, &hello).and_then(|()| handler.admit(&hello.identity, hello.purpose)),
        ),
    };
    let reply = Reply { versions, identity: own.clone(), verdict };
    stream.writer.write_all(&reply.encode()).await?;
    stream.writer.flush().await?;
    reply.verdict.map_err(Error::Rejected)?;
    Ok(hello)
}

fn no_common_version(hello: &Hello) -> Refusal {
    Refusal::new(
        Reason::VersionUnsupported,
        format!(
            "host {} speaks versions {:?} of the peer protocol, this host {:?}; update the older of the two",
            hello.identity.host, hello.versions, VERSIONS
        ),
    )
}

/// Decides what needs no knowledge of the cluster's members.
fn judge(own: &Identity, hello: &Hello) -> Result<(), Refusal> {
    if let Some(expected) = hello.expects.as_ref().filter(|expected| **expected != own.host) {
        return Err(Refusal::new(
            Reason::NotForYou,
            format!("expected host {expected}, found host {}; check the addresses", own.host),
        ));
    }
    if let Purpose::Lane(_) = hello.purpose {
        same_cluster(own, &hello.identity)?;
        if hello.identity.host == own.host {
            return Err(Refusal::new(
                Reason::WrongInstance,
                format!("host {} is me; give each host its own Z4_PEER_ID", own.host),
            ));
        }
    }
    Ok(())
}

/// Refuses a host of another cluster.
///
/// # Errors
/// [`Reason::WrongCluster`], naming both.
pub(crate) fn same_cluster(own: &Identity, other: &Identity) -> Result<(), Refusal> {
    if own.cluster == other.cluster {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::WrongCluster,
        format!(
            "host {} belongs to cluster {} ({}), host {} to cluster {} ({}); check the addresses and the data \
             directories",
            own.host, own.cluster_name, own.cluster, other.host, other.cluster_name, other.cluster
        ),
    ))
}

/// Reads an envelope and its body.
async fn read(reader: &mut (dyn AsyncRead + Send + Unpin)) -> Result<(Envelope, BytesMut), Error> {
    let mut head = [0; ENVELOPE_BYTES];
    let mut filled = 0;
    while filled < ENVELOPE_BYTES {
        let count = reader.read(&mut head[filled..]).await?;
        filled += count;
        // Other protocols are told apart by their first bytes: they may wait for us to say more.
        if filled >= TELLING_BYTES && &head[..MAGIC.len()] != MAGIC {
            return Err(BadHello::Foreign(Foreign::of(&head[..filled])).into());
        }
        if count == 0 {
            return Err(if filled == 0 { Error::Closed } else { frame::BadFrame::Half.into() });
        }
    }
    let envelope = Envelope::read(&head)?;
    let mut body = BytesMut::zeroed(envelope.body_len);
    reader.read_exact(&mut body).await.map_err(|_| frame::BadFrame::Half)?;
    Ok((envelope, body))
}

/// Says why the connection ends and closes our half. Best effort: the other side may be gone.
pub(crate) async fn bye(writer: &mut (dyn AsyncWrite + Send + Unpin), refusal: &Refusal) {
    // A failure changes nothing: the connection ends either way.
    let _ = write_frame(writer, Kind::Bye, refusal.encode().freeze()).await;
    let _ = writer.shutdown().await;
}

/// Writes one frame.
///
/// # Errors
/// If the socket fails.
pub(crate) async fn write_frame(
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    kind: Kind,
    body: Bytes,
) -> std::io::Result<()> {
    let head = frame::head(kind, &body);
    writer.write_all(&head).await?;
    writer.write_all(&body).await?;
    writer.flush().await
}
