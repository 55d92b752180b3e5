//! Bytes of the registry and its commands (`docs/FORMATS.md`, "Registry").

use z4_types::{ClusterId, HostId, ShardId};

use crate::registry::{Command, Host, Registry, Replica, Shard};

const VERSION: u8 = 1;
const SET_ADDRESS: u8 = 1;

/// The bytes are not a registry (or command) of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the registry cannot be read: {0}")]
pub struct Malformed(&'static str);

impl Registry {
    /// Returns the registry's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        put_text(&mut out, &self.name);
        put_count(&mut out, self.hosts.len());
        for host in &self.hosts {
            put_text(&mut out, &host.id.0);
            put_text(&mut out, &host.address);
        }
        put_count(&mut out, self.shards.len());
        for shard in &self.shards {
            put_count(&mut out, shard.voters.len());
            for replica in &shard.voters {
                out.extend_from_slice(&replica.id.to_le_bytes());
                put_text(&mut out, &replica.host.0);
            }
        }
        out.extend_from_slice(&self.next_replica.to_le_bytes());
        out
    }

    /// Reads what [`Registry::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not that.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::versioned(bytes)?;
        let cluster = ClusterId(u128::from_le_bytes(input.array()?));
        let name = input.text()?;
        let hosts = input.list(|i| Ok(Host { id: HostId(i.text()?), address: i.text()? }))?;
        let voters = input.list(|i| i.list(|i| Ok(Replica { id: i.u64()?, host: HostId(i.text()?) })))?;
        let shards = (0..).zip(voters).map(|(id, voters)| Shard { id: ShardId(id), voters }).collect();
        let next_replica = input.u64()?;
        input.end()?;
        Ok(Self { cluster, name, hosts, shards, next_replica })
    }
}

impl Command {
    /// Returns the command's bytes: the data of one log entry of shard 0.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::SetAddress { host, address } => {
                out.push(SET_ADDRESS);
                put_text(&mut out, &host.0);
                put_text(&mut out, address);
            }
        }
        out
    }

    /// Reads what [`Command::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not that.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::versioned(bytes)?;
        let command = match input.array::<1>()? {
            [SET_ADDRESS] => Self::SetAddress { host: HostId(input.text()?), address: input.text()? },
            _ => return Err(Malformed("unknown command; run a newer version")),
        };
        input.end()?;
        Ok(command)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).expect("a registry is small").to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn versioned(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(Self(rest)),
            Some(_) => Err(Malformed("written by a newer version")),
            None => Err(Malformed("no bytes")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed("cut short"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed("cut short"))?;
        self.0 = tail;
        String::from_utf8(head.to_vec()).map_err(|_| Malformed("text is not UTF-8"))
    }

    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = u32::from_le_bytes(self.array()?);
        // Grows as items are found: a wrong count must not reserve memory.
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(item(self)?);
        }
        Ok(out)
    }

    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }
}
