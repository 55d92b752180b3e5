//! What this host tells others: who may talk to it, where their frames go, and answers to their questions.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use z4_registry::{Command, Refusal, Registry};
use z4_transport::{Arrival, Boxed, Handler, Identity, Purpose, Reason};
use z4_types::{ClusterId, HostId, Kind, ShardId};

use super::Cluster;
use crate::ask::{Answer, Greeting, Question};
use crate::error::Error;

/// The transport's way to a host that is made after it. Until then nobody is refused and frames are dropped.
#[derive(Default)]
pub(crate) struct Answers(OnceLock<Weak<Cluster>>);

impl Answers {
    /// Lets `cluster` answer from now on.
    pub(crate) fn attach(&self, cluster: &Arc<Cluster>) {
        // Called once, by the start of a host.
        let _ = self.0.set(Arc::downgrade(cluster));
    }

    fn cluster(&self) -> Option<Arc<Cluster>> {
        self.0.get()?.upgrade()
    }
}

impl Handler for Answers {
    fn admit(&self, peer: &Identity, purpose: Purpose) -> Result<(), z4_transport::Refusal> {
        let Some(cluster) = self.cluster() else { return Ok(()) };
        match purpose {
            // What may be asked is decided when the question is known.
            Purpose::Ask => Ok(()),
            Purpose::Lane(_) => cluster.admit(peer),
        }
    }

    fn frame(&self, from: &HostId, arrival: Arrival) {
        if let Some(cluster) = self.cluster() {
            cluster.runner.receive(from.clone(), arrival.body, Box::new(arrival.room));
        }
    }

    fn answer(&self, from: Identity, question: Bytes) -> Boxed<'static, Bytes> {
        let cluster = self.cluster();
        Box::pin(async move {
            let answer = match (cluster, Question::decode(&question)) {
                (None, _) => Answer::Failed(Kind::Unavailable, "the host is starting or stopping".into()),
                (_, Err(error)) => Answer::Failed(Kind::Unsupported, error.to_string()),
                (Some(cluster), Ok(question)) => cluster.answer(from, question).await,
            };
            Bytes::from(answer.encode())
        })
    }

    fn refused(&self, by: &HostId, refusal: &z4_transport::Refusal) {
        let Some(cluster) = self.cluster() else { return };
        if refusal.reason == Reason::Removed && !cluster.removed.swap(true, Relaxed) {
            tracing::error!(
                %by,
                "this host was removed from the cluster: {refusal}; stop it, and empty its directories before it is added again"
            );
        }
    }
}

impl Cluster {
    /// Decides whether `peer`, which is of this cluster, may send frames. One that the registry here does not know was
    /// admitted since it was written: without it this host might never learn the newer one.
    fn admit(&self, peer: &Identity) -> Result<(), z4_transport::Refusal> {
        let registry = self.registry();
        let refusal = match registry.admit(&peer.host, peer.instance) {
            Ok(()) => return Ok(()),
            Err(Refusal::NotFound(host)) => {
                let mut newer = self.newer.lock().unwrap_or_else(PoisonError::into_inner);
                newer.insert(host, peer.address.clone());
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        let reason = match refusal {
            Refusal::Removed(_) => Reason::Removed,
            _ => Reason::WrongInstance,
        };
        Err(z4_transport::Refusal::new(reason, refusal.to_string()))
    }

    async fn answer(self: &Arc<Self>, from: Identity, question: Question) -> Answer {
        match question {
            Question::Greet => self.greet(&from),
            Question::Adopt(registry) => self.be_adopted(registry).await,
            Question::Join { address, .. } => self.let_join(&from, address).await,
            Question::Command(_) if from.cluster != self.identity().cluster => {
                Answer::Failed(Kind::Invalid, format!("host {} is of another cluster", from.host))
            }
            Question::Command(command) => match self.change_here(command).await {
                Ok(()) => Answer::Done,
                Err(error) => self.failed(error),
            },
            Question::Clock => Answer::Clock(self.clock.wall()),
            Question::Leaders => Answer::Leaders(
                self.runner
                    .leaders()
                    .all()
                    .into_iter()
                    .map(|(shard, leader)| (shard, leader.replica))
                    .collect(),
            ),
        }
    }

    fn greet(&self, from: &Identity) -> Answer {
        let known = self.registry().host(&from.host).map_or(0, |host| host.instance);
        let led = self.runner.leaders().of(ShardId(0)).is_some_and(|leader| leader.replica > 0);
        Answer::Greeting(Greeting { member: self.identity().is_member(), your_instance: known, led })
    }

    async fn be_adopted(self: &Arc<Self>, registry: Registry) -> Answer {
        if registry.name != self.config.cluster_name {
            let text = format!(
                "host {} is configured for cluster {:?}, not {:?}: set its Z4_CLUSTER_NAME",
                self.config.host, self.config.cluster_name, registry.name
            );
            return Answer::Failed(Kind::Invalid, text);
        }
        if let Err(refusal) = registry.admit(&self.config.host, self.identity().instance) {
            return Answer::Refused(refusal);
        }
        match self.settle(registry, false).await {
            Ok(()) => Answer::Done,
            Err(error) => self.failed(error),
        }
    }

    /// Admits the asker, if this host leads shard 0.
    async fn let_join(self: &Arc<Self>, from: &Identity, address: String) -> Answer {
        let identity = self.identity();
        if !identity.is_member() {
            let text = format!("host {} belongs to no cluster itself", identity.host);
            return Answer::Failed(Kind::Unavailable, text);
        }
        if from.cluster_name != identity.cluster_name
            || from.cluster != ClusterId(0) && from.cluster != identity.cluster
        {
            let text = format!(
                "host {} is of cluster {:?} ({}), this is cluster {:?} ({}); check Z4_CLUSTER_NAME and the data \
                 directories",
                from.host, from.cluster_name, from.cluster, identity.cluster_name, identity.cluster
            );
            return Answer::Failed(Kind::Invalid, text);
        }
        let command = match self.admission(&from.host, from.instance, address) {
            Ok(command) => command,
            Err(refusal) => return Answer::Refused(refusal),
        };
        match self.change_here(command).await {
            Ok(()) => Answer::Registry((*self.registry()).clone()),
            Err(error) => self.failed(error),
        }
    }

    /// Returns the command that makes the data directory `instance` the one of `host`: a new member, or the successor of
    /// one that lost its disk.
    ///
    /// # Errors
    /// `WrongInstance` while the other directory is in use.
    pub(super) fn admission(
        &self,
        host: &HostId,
        instance: u64,
        address: String,
    ) -> Result<Command, Refusal> {
        let registry = self.registry();
        let other = registry
            .host(host)
            .filter(|known| known.is_member() && known.instance != 0 && known.instance != instance);
        if other.is_none() {
            return Ok(Command::AddHost { host: host.clone(), address, instance: Some(instance) });
        }
        let lives = self.transport().is_ok_and(|transport| {
            let status = transport.status();
            status.peers.get(host).is_some_and(|peer| peer.from_urgent.connected || peer.from_bulk.connected)
        });
        if lives || *host == self.config.host {
            return Err(Refusal::WrongInstance(host.clone()));
        }
        Ok(Command::ReplaceHost { host: host.clone(), instance, address })
    }

    /// Returns the answer that `error` is to another host.
    fn failed(&self, error: Error) -> Answer {
        match error {
            Error::Registry(refusal) => Answer::Refused(refusal),
            Error::NotLeader(_) => Answer::Elsewhere(self.registry_leader()),
            Error::Unknown => Answer::Unknown,
            error => Answer::Failed(error.kind(), error.to_string()),
        }
    }
}
