//! A running host among others: does the controller's errands, and keeps the transport's peers in step with the registry.
//!
//! ```text
//! every 100 ms:  driver ── Controller::pass ──> errands: seats on disk, replicas to live or go, registry commands
//!                registry ──────────────────> peers of the transport
//!                registry ──policies.rs─────> task shards led here
//! a question ──> answers.rs      no cluster yet ──> joining.rs      a change ──> changes.rs      whose clock ──> clocks.rs
//! ```
//! # Invariants
//! - A replica lives only after its seat is durable; it is removed only after its seat is gone, durably.
//! - Who this host is reaches the disk before anybody is told.
//! # Not here
//! - What to do: `controller.rs` decides. Frames: the runner takes them from `answers.rs`.
//! # Caveats
//! - A shard without a replica here has a leader that only others know: they are asked twice a second.

mod answers;
mod changes;
mod clocks;
mod joining;
pub(crate) mod policies;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use z4_env::{Clock, Disk};
use z4_multiraft::Runner;
use z4_registry::{Command, Registry};
use z4_store::Meta;
use z4_transport::Transport;
use z4_types::{HostId, Kind, ShardId};
use z4_wal::GroupLog;

use crate::ask::{Answer, Question};
use crate::boot::write_identity;
use crate::clocks::Clocks;
use crate::config::Config;
use crate::controller::{Announcement, Controller, Errand};
use crate::error::Error;
use crate::identity::Identity;
use crate::machine::HostMachine;
use crate::open::Opener;
use crate::seats::{self, Beginning, Seats};

pub(crate) use answers::Answers;

/// Between two passes of the controller.
const PASS: Duration = Duration::from_millis(100);
/// Passes between two questions for the leaders of shards that have no replica here.
const LEADERS_PASSES: u32 = 5;
/// Passes between two comparisons of clocks, once one has succeeded: five seconds, so that a jump is noticed soon, for one
/// short connection to each host.
const CLOCKS_PASSES: u32 = 50;
/// A question that needs no work has so long.
const ASK: Duration = Duration::from_secs(2);

/// What [`Cluster::new`] is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) runner: Arc<Runner<HostMachine>>,
    pub(crate) opener: Opener,
    pub(crate) seats: Seats,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) transport: Transport,
    pub(crate) speaks: z4_transport::Config,
}

/// See the module essay.
pub(crate) struct Cluster {
    config: Config,
    /// As of the start.
    identity: Identity,
    /// Once a host that belonged to no cluster belongs to one.
    joined: OnceLock<Identity>,
    runner: Arc<Runner<HostMachine>>,
    opener: Opener,
    seats: RwLock<Seats>,
    /// Held while seats are written; reading them waits for no disk.
    seating: Mutex<()>,
    controller: Mutex<Controller>,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    /// None once stopped.
    transport: RwLock<Option<Arc<Transport>>>,
    /// How this host speaks with others; shared with the transport.
    speaks: z4_transport::Config,
    /// Hosts of this cluster that the registry does not know yet, with the addresses they gave.
    newer: Mutex<BTreeMap<HostId, String>>,
    /// Peers the transport has.
    peers: Mutex<BTreeMap<HostId, String>>,
    /// Leaders of shards without a replica here, as others told.
    told_leaders: RwLock<BTreeMap<ShardId, u64>>,
    /// They are being asked.
    asking: AtomicBool,
    /// The wall clocks of the others.
    clocks: Mutex<Clocks>,
    /// They are being asked for.
    comparing: AtomicBool,
    /// A command of the controller is under way.
    commanding: AtomicBool,
    /// One change of who this host is at a time.
    settling: tokio::sync::Mutex<()>,
    /// Others say that this host was removed.
    removed: AtomicBool,
    /// Newest version of the policies that was found unreadable.
    policies_unread: Mutex<u64>,
}

impl Cluster {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, identity, runner, opener, seats, disk, clock, transport, speaks } = parts;
        let controller = Controller::new(Announcement {
            host: config.host.clone(),
            instance: identity.instance,
            address: config.advertise.clone(),
            service: config.service.clone(),
        });
        let clocks = Mutex::new(Clocks::new(config.host.clone()));
        Self {
            config,
            identity,
            joined: OnceLock::new(),
            runner,
            opener,
            seats: RwLock::new(seats),
            seating: Mutex::default(),
            controller: Mutex::new(controller),
            disk,
            clock,
            transport: RwLock::new(Some(Arc::new(transport))),
            speaks,
            newer: Mutex::default(),
            peers: Mutex::default(),
            told_leaders: RwLock::default(),
            asking: AtomicBool::new(false),
            clocks,
            comparing: AtomicBool::new(false),
            commanding: AtomicBool::new(false),
            settling: tokio::sync::Mutex::new(()),
            removed: AtomicBool::new(false),
            policies_unread: Mutex::new(0),
        }
    }

    /// Runs until the host stops. Holds it only while something is done.
    pub(crate) async fn live(this: Weak<Self>) {
        if let Some(cluster) = this.upgrade().filter(|cluster| !cluster.identity().is_member()) {
            tokio::spawn(joining::seek(Weak::clone(&this)));
            drop(cluster);
        }
        for pass in 0_u32.. {
            let Some(cluster) = this.upgrade().filter(|cluster| !cluster.is_stopped()) else { return };
            cluster.pass().await;
            // A host that does not answer must not hold up the errands.
            let compare = pass.is_multiple_of(CLOCKS_PASSES) || cluster.peer_clocks().is_empty();
            if compare && !cluster.comparing.swap(true, Relaxed) {
                let cluster = Arc::clone(&cluster);
                tokio::spawn(async move {
                    cluster.compare_clocks().await;
                    cluster.comparing.store(false, Relaxed);
                });
            }
            if pass.is_multiple_of(LEADERS_PASSES) && !cluster.asking.swap(true, Relaxed) {
                tokio::spawn(async move {
                    cluster.ask_leaders().await;
                    cluster.asking.store(false, Relaxed);
                });
            }
            tokio::time::sleep(PASS).await;
        }
    }

    /// Closes all connections.
    pub(crate) fn stop(&self) {
        drop(self.transport.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn is_stopped(&self) -> bool {
        self.transport.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Returns whether others said that this host was removed from the cluster. Its replicas may not know: who is let go of
    /// a group is not told by it.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }

    /// Returns who this host is.
    pub(crate) fn identity(&self) -> &Identity {
        self.joined.get().unwrap_or(&self.identity)
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.opener.published.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the replica that is said to lead a shard which has no replica here.
    pub(crate) fn told_leader(&self, shard: ShardId) -> Option<u64> {
        self.told_leaders.read().unwrap_or_else(PoisonError::into_inner).get(&shard).copied()
    }

    fn transport(&self) -> Result<Arc<Transport>, Error> {
        self.transport.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Error::Stopping)
    }

    /// Asks the host at `address`, which must be `expects` if that is given. Returns who answered, and what.
    pub(super) async fn ask(
        &self,
        address: &str,
        expects: Option<&HostId>,
        question: &Question,
        patience: Duration,
    ) -> Result<(z4_transport::Identity, Answer), Error> {
        let failed = |error: z4_transport::Error| Error::Peer(error.kind(), error.to_string());
        let question = Bytes::from(question.encode());
        let answer = self.transport()?.ask(address, expects, question, patience).await.map_err(failed)?;
        let said = Answer::decode(&answer.body).map_err(|e| Error::Peer(Kind::Unsupported, e.to_string()))?;
        Ok((answer.from, said))
    }

    /// Lets the controller look once, and does its errands.
    async fn pass(self: &Arc<Self>) {
        self.set_peers();
        let (reply, answer) = oneshot::channel();
        let this = Arc::clone(self);
        self.runner.look(move |driver| {
            let (registry, seats) = (this.registry(), this.seats());
            let mut controller = this.controller.lock().unwrap_or_else(PoisonError::into_inner);
            controller.set_astray(this.clocks_astray());
            let errands = controller.pass(driver, &registry, &seats);
            let outdated = policies::outdated(driver, registry.policies.version);
            drop(reply.send((errands, registry, outdated)));
        });
        let Ok((errands, registry, outdated)) = answer.await else { return };
        self.tell_policies(&registry, outdated);
        let mut create = Vec::new();
        for errand in errands {
            match errand {
                Errand::Create(shard, replica) => create.push((shard, replica, Beginning::Joined)),
                Errand::Bury(shard, replica) => self.bury(shard, replica).await,
                Errand::Command(command) => self.command(command),
            }
        }
        if !create.is_empty()
            && let Err(error) = self.seat(create, None, None).await
        {
            tracing::warn!(%error, "replicas cannot be created; this is tried again");
        }
    }

    /// Sends a command of the controller, one at a time; it is asked for again if it does not succeed.
    fn command(self: &Arc<Self>, command: Command) {
        if self.commanding.swap(true, Relaxed) {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = this.change(command.clone()).await {
                tracing::debug!(?command, %error, "the registry is told later");
            }
            this.commanding.store(false, Relaxed);
        });
    }

    fn seats(&self) -> Seats {
        self.seats.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the seats, on disk and then here. Blocks.
    fn change_seats(
        &self,
        change: impl FnOnce(&z4_store::Store, &mut Seats) -> Result<(), z4_store::Error>,
    ) -> Result<(), Error> {
        let _turn = self.seating.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seats = self.seats();
        change(&self.opener.store, &mut seats).map_err(|e| Error::Storage(e.kind(), e.to_string()))?;
        *self.seats.write().unwrap_or_else(PoisonError::into_inner) = seats;
        Ok(())
    }

    /// Gives replicas seats, writes who this host becomes, if it does, and lets them live.
    async fn seat(
        self: &Arc<Self>,
        replicas: Vec<(ShardId, u64, Beginning)>,
        told: Option<Registry>,
        becomes: Option<Identity>,
    ) -> Result<(), Error> {
        let this = Arc::clone(self);
        let opened = blocking(move || {
            let ids: Vec<_> = replicas.iter().map(|(shard, replica, _)| (*shard, *replica)).collect();
            this.change_seats(|store, seats| {
                let taken = |shard, id| seats.get(&shard).is_some_and(|seat| seat.replica == id);
                let new = replicas.into_iter().filter(|(shard, id, _)| !taken(*shard, *id)).collect();
                seats::take(store, seats, new, told.as_ref())
            })?;
            let storage = |kind, what| Error::Storage(kind, what);
            if let Some(identity) = becomes {
                write_identity(&this.config, &*this.disk, &identity)
                    .map_err(|error| storage(Kind::Internal, error.to_string()))?;
            }
            let metas = this.opener.store.groups().map_err(|e| storage(e.kind(), e.to_string()))?;
            let mut opened = Vec::new();
            for (shard, replica) in ids {
                let meta = metas.get(&shard).cloned().unwrap_or_else(Meta::default);
                let (replica, _) = this
                    .opener
                    .open(shard, replica, &meta, GroupLog::default())
                    .map_err(|fault| storage(fault.kind, fault.what))?;
                opened.push((shard, replica));
            }
            Ok(opened)
        })
        .await?;
        let (reply, done) = oneshot::channel();
        self.runner.look(move |driver| {
            for (shard, replica) in opened {
                if driver.members(shard).is_none() {
                    tracing::info!(%shard, "a replica lives here now");
                    driver.add(replica);
                }
            }
            let _ = reply.send(());
        });
        done.await.map_err(|_| Error::Stopping)
    }

    /// Takes a replica's seat away and removes its group.
    async fn bury(self: &Arc<Self>, shard: ShardId, replica: u64) {
        let this = Arc::clone(self);
        let buried =
            blocking(move || this.change_seats(|store, seats| seats::bury(store, seats, shard))).await;
        match buried {
            Ok(()) => {
                tracing::info!(%shard, replica, "a replica has left this host");
                self.runner.look(move |driver| driver.remove(shard));
            }
            Err(error) => tracing::warn!(%shard, %error, "a replica cannot be removed; this is tried again"),
        }
    }

    /// Makes this host a member of the cluster of `registry`: as one of those that form it, or as one that was admitted.
    async fn settle(self: &Arc<Self>, registry: Registry, forms: bool) -> Result<(), Error> {
        let _turn = self.settling.lock().await;
        if self.identity().is_member() {
            return if self.identity().cluster == registry.cluster {
                Ok(())
            } else {
                Err(Error::Peer(Kind::Invalid, "this host belongs to another cluster".into()))
            };
        }
        let own = &self.config.host;
        let shard = ShardId(0);
        let replicas = if forms {
            seats::of_founder(&registry, own)
        } else {
            let placed = registry.replica_on(shard, own).map(|replica| replica.id);
            let placed = placed.ok_or_else(|| {
                Error::Peer(Kind::Invalid, format!("the registry has no place for host {own}"))
            })?;
            vec![(shard, placed, Beginning::Joined)]
        };
        let identity = Identity { cluster: registry.cluster, ..self.identity.clone() };
        // The seats first, and the name last: until it is there the next start takes nothing for granted.
        let cluster = registry.cluster;
        let told = (!forms).then_some(registry);
        self.seat(replicas, told.clone(), Some(identity.clone())).await?;
        if let Some(told) = told {
            let mut published = self.opener.published.write().unwrap_or_else(PoisonError::into_inner);
            if !published.is_known() {
                *published = Arc::new(told);
            }
        }
        self.speaks.set_cluster(cluster);
        // Only this function sets it, and it has the turn.
        let _ = self.joined.set(identity);
        self.set_peers();
        tracing::info!(%cluster, formed = forms, "this host is a member of a cluster");
        Ok(())
    }

    /// Tells the transport to whom to send: the members, removed hosts whose replicas have not left, and hosts of this
    /// cluster that the registry does not know yet.
    fn set_peers(&self) {
        let registry = self.registry();
        let mut wanted: BTreeMap<HostId, String> = registry
            .hosts
            .iter()
            .filter(|host| host.is_member() || registry.holds_replicas(&host.id))
            .map(|host| (host.id.clone(), host.address.clone()))
            .collect();
        let mut newer = self.newer.lock().unwrap_or_else(PoisonError::into_inner);
        newer.retain(|host, _| registry.host(host).is_none());
        wanted.extend(newer.iter().map(|(host, address)| (host.clone(), address.clone())));
        drop(newer);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if *peers != wanted
            && let Ok(transport) = self.transport()
        {
            transport.set_peers(&wanted);
            *peers = wanted;
        }
    }

    /// Asks who leads the shards that have no replica here.
    async fn ask_leaders(&self) {
        let registry = self.registry();
        let seats = self.seats();
        let lives = |shard: &ShardId| seats.get(shard).is_some_and(|seat| seat.replica > 0);
        let mut hosts = BTreeSet::new();
        for shard in registry.shards.iter().filter(|shard| !lives(&shard.id)) {
            let known = self.told_leader(shard.id).and_then(|id| registry.host_of_replica(shard.id, id));
            let first = || shard.voters().next().and_then(|replica| registry.host(&replica.host));
            hosts.extend(known.or_else(first).map(|host| (host.id.clone(), host.address.clone())));
        }
        let mut told = BTreeMap::new();
        for (host, address) in hosts {
            if let Ok((_, Answer::Leaders(leaders))) =
                self.ask(&address, Some(&host), &Question::Leaders, ASK).await
            {
                told.extend(leaders.into_iter().filter(|(shard, id)| *id > 0 && !lives(shard)));
            }
        }
        *self.told_leaders.write().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Stopping))
}
