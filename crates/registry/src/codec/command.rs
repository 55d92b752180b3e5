//! One entry of shard 0's log.

use z4_types::ShardId;

use super::{Input, Malformed, Output};
use crate::command::Command;

const SET_ADDRESS: u8 = 1;
const ANNOUNCE: u8 = 2;
const ADD_HOST: u8 = 3;
const REMOVE_HOST: u8 = 4;
const REPLACE_HOST: u8 = 5;
const SET_REPLICATION: u8 = 6;
const DRAIN_HOST: u8 = 7;
const UNDRAIN_HOST: u8 = 8;
const LEFT: u8 = 9;
const SET_POLICY: u8 = 10;
const DELETE_POLICY: u8 = 11;

impl Command {
    /// Returns the command's bytes: the data of one log entry of shard 0.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Output::versioned();
        match self {
            Self::SetAddress { host, address, service } => {
                out.u8(SET_ADDRESS);
                out.text(&host.0);
                out.text(address);
                out.text(service);
            }
            Self::Announce { host, instance, address, service, tags } => {
                out.u8(ANNOUNCE);
                out.text(&host.0);
                out.u64(*instance);
                out.text(address);
                out.text(service);
                out.tags(tags);
            }
            Self::AddHost { host, address, instance } => {
                out.u8(ADD_HOST);
                out.text(&host.0);
                out.text(address);
                out.list(instance, |out, instance| out.u64(*instance));
            }
            Self::RemoveHost { host } => {
                out.u8(REMOVE_HOST);
                out.text(&host.0);
            }
            Self::ReplaceHost { host, instance, address } => {
                out.u8(REPLACE_HOST);
                out.text(&host.0);
                out.u64(*instance);
                out.text(address);
            }
            Self::SetReplication { replication } => {
                out.u8(SET_REPLICATION);
                out.u32(*replication);
            }
            Self::DrainHost { host } => {
                out.u8(DRAIN_HOST);
                out.text(&host.0);
            }
            Self::UndrainHost { host } => {
                out.u8(UNDRAIN_HOST);
                out.text(&host.0);
            }
            Self::Left { shard, replicas } => {
                out.u8(LEFT);
                out.u32(shard.0);
                out.list(replicas, |out, replica| out.u64(*replica));
            }
            Self::SetPolicy { pattern, settings } => {
                out.u8(SET_POLICY);
                out.text(pattern);
                out.bytes(settings);
            }
            Self::DeletePolicy { pattern } => {
                out.u8(DELETE_POLICY);
                out.text(pattern);
            }
        }
        out.0
    }

    /// Reads what [`Command::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not that.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::versioned(bytes)?;
        let command = match input.u8()? {
            SET_ADDRESS => {
                Self::SetAddress { host: input.host()?, address: input.text()?, service: input.text()? }
            }
            ANNOUNCE => Self::Announce {
                host: input.host()?,
                instance: input.u64()?,
                address: input.text()?,
                service: input.text()?,
                tags: input.tags()?,
            },
            ADD_HOST => {
                let (host, address) = (input.host()?, input.text()?);
                let instance = match input.list(Input::u64)?[..] {
                    [] => None,
                    [instance] => Some(instance),
                    _ => return Err(Malformed("a host with several instances")),
                };
                Self::AddHost { host, address, instance }
            }
            REMOVE_HOST => Self::RemoveHost { host: input.host()? },
            REPLACE_HOST => {
                Self::ReplaceHost { host: input.host()?, instance: input.u64()?, address: input.text()? }
            }
            SET_REPLICATION => Self::SetReplication { replication: input.u32()? },
            DRAIN_HOST => Self::DrainHost { host: input.host()? },
            UNDRAIN_HOST => Self::UndrainHost { host: input.host()? },
            LEFT => Self::Left { shard: ShardId(input.u32()?), replicas: input.list(Input::u64)? },
            SET_POLICY => Self::SetPolicy { pattern: input.text()?, settings: input.bytes()? },
            DELETE_POLICY => Self::DeletePolicy { pattern: input.text()? },
            _ => return Err(Malformed("unknown command; run a newer version")),
        };
        input.end()?;
        Ok(command)
    }
}
