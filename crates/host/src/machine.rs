//! A host's groups are of two kinds: the registry and the task shards. This is the dispatch, nothing more.

use bytes::Bytes;
use z4_multiraft::{Admission, Fault, Refuse, Refused, StateMachine};
use z4_store::GroupStore;
use z4_types::{Entry, Index, Millis, ShardId, Term};

use crate::error::Error;
use crate::registry_shard::{RegistryChange, RegistryShard};
use crate::shard::{Read, TaskShard, Write};

/// One group of this host.
pub enum HostMachine {
    /// Shard 0.
    Registry(Box<RegistryShard>),
    /// Any other shard.
    Tasks(Box<TaskShard>),
}

/// A write to any group.
pub enum HostWrite {
    /// To shard 0.
    Registry(RegistryChange),
    /// To a task shard.
    Task(Write),
}

/// A read of a task shard.
pub type HostRead = Read;

impl Refuse for HostWrite {
    fn refuse(self, shard: ShardId, why: Refused) {
        match self {
            Self::Registry(change) => (change.reply)(Err(Error::from_refused(why, shard))),
            Self::Task(write) => write.refuse(shard, why),
        }
    }
}

impl StateMachine for HostMachine {
    type Write = HostWrite;
    type Read = HostRead;

    fn write(&mut self, write: HostWrite, admission: Admission) {
        match (self, write) {
            (Self::Registry(shard), HostWrite::Registry(change)) => shard.write(change),
            (Self::Tasks(shard), HostWrite::Task(write)) => shard.write(write, admission),
            (Self::Registry(_), HostWrite::Task(write)) => write.refuse(ShardId(0), Refused::NoSuchShard),
            (Self::Tasks(_), HostWrite::Registry(_)) => unreachable!("registry commands go to shard 0"),
        }
    }

    fn entry(&mut self, store: &GroupStore, now: Millis) -> Result<Option<Bytes>, Fault> {
        match self {
            Self::Registry(shard) => Ok(shard.entry()),
            Self::Tasks(shard) => shard.entry(store, now),
        }
    }

    fn proposed(&mut self, index: Index, term: Term) {
        match self {
            Self::Registry(shard) => shard.proposed(index, term),
            Self::Tasks(shard) => shard.proposed(index, term),
        }
    }

    fn apply(&mut self, store: &mut GroupStore, entry: &Entry, leading: bool) -> Result<(), Fault> {
        match self {
            Self::Registry(shard) => shard.apply(store, entry, leading),
            Self::Tasks(shard) => shard.apply(store, entry, leading),
        }
    }

    fn read(&mut self, store: &mut GroupStore, now: Millis, read: Read) -> Result<(), Fault> {
        match self {
            Self::Registry(_) => {
                read.refuse(ShardId(0), Refused::NoSuchShard);
                Ok(())
            }
            Self::Tasks(shard) => shard.read(store, now, read),
        }
    }

    fn reload(&mut self, store: &GroupStore) -> Result<(), Fault> {
        match self {
            Self::Registry(shard) => shard.reload(store),
            Self::Tasks(shard) => shard.reload(store),
        }
    }

    fn lead(&mut self) {
        if let Self::Tasks(shard) = self {
            shard.lead();
        }
    }

    fn follow(&mut self) {
        match self {
            Self::Registry(shard) => shard.follow(),
            Self::Tasks(shard) => shard.follow(),
        }
    }

    fn stop(&mut self) {
        if let Self::Tasks(shard) = self {
            shard.stop();
        }
    }

    fn deadline(&mut self, store: &GroupStore, _now: Millis) -> Result<Option<Millis>, Fault> {
        match self {
            Self::Registry(shard) => Ok(shard.deadline()),
            Self::Tasks(shard) => shard.deadline(store),
        }
    }

    fn now(&self) -> Millis {
        match self {
            Self::Registry(_) => Millis(0),
            Self::Tasks(shard) => shard.now(),
        }
    }
}
