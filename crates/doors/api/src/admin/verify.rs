//! VerifyShards: do all replicas of a shard hold the same state? (P11)
//!
//! Every member is asked for the digests of its replicas, each with the index it is of; digests of one index must be
//! equal. Replicas stand at different indexes while writes go on, so hosts remember some digests, and those that have none
//! in common are asked again until the call's time is up.
//!
//! # Caveats
//! - Digests are compared, not rows: two states with one digest are one chance in 2^64, or an enemy's work.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Request;
use z4_proto::MESSAGE_BYTES_MAX;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_proto::v1::admin_client::AdminClient;
use z4_proto::v1::shard_verdict::Result as Verdict;
use z4_types::{HostId, ShardId};

use super::info;
use crate::call::Call;
use crate::status;

/// Time between two rounds: replicas of an idle shard are equal after less.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// One host's time to answer; one that is down must not use up the call's.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What each host says of its replicas, or why it does not.
type Answers = BTreeMap<HostId, Result<v1::InfoResponse, Failure>>;

pub(super) async fn verify(
    call: Call<'_>,
    request: v1::VerifyShardsRequest,
) -> Result<v1::VerifyShardsResponse, Failure> {
    let registry = call.handle().registry();
    if let Some(unknown) = request.shards.iter().find(|shard| registry.shard(ShardId(**shard)).is_none()) {
        return Err(status::failure(&z4_host::Error::NoSuchShard(ShardId(*unknown))));
    }
    let wanted = |shard: ShardId| request.shards.is_empty() || request.shards.contains(&shard.0);
    loop {
        let answers = ask_all(call).await?;
        let registry = call.handle().registry();
        let verdicts: Vec<_> = registry
            .shards
            .iter()
            .filter(|shard| wanted(shard.id))
            .map(|shard| {
                let replicas = shard.replicas.iter().filter(|replica| replica.is_wanted());
                verdict(shard.id, replicas.map(|replica| of(shard.id, replica.id, &replica.host, &answers)))
            })
            .collect();
        // A host that does not answer now will not do so for being asked again.
        let open = verdicts.iter().any(|verdict| {
            verdict.result() == Verdict::Unknown && verdict.replicas.iter().all(|each| each.error.is_empty())
        });
        if !open || call.deadline.left() < AGAIN_AFTER * 2 {
            return Ok(v1::VerifyShardsResponse { shards: verdicts });
        }
        sleep(AGAIN_AFTER).await;
    }
}

/// One replica and the digests it knows.
struct Known {
    replica: v1::ReplicaDigest,
    digests: BTreeMap<u64, String>,
}

/// Asks every member at once.
async fn ask_all(call: Call<'_>) -> Result<Answers, Failure> {
    let mut answers = Answers::new();
    let mut asked = JoinSet::new();
    for host in call.handle().registry().members() {
        let (id, service) = (host.id.clone(), host.service.clone());
        if id == call.handle().identity().host {
            let snapshot = call.read(call.handle().snapshot()).await?;
            answers.insert(id, Ok(info::of(call.door, &snapshot)));
            continue;
        }
        let (door, deadline) = (call.door.clone(), call.deadline);
        asked.spawn(async move {
            let call = Call { door: &door, deadline, forwarded: true };
            let answer = ask(call, &id, &service).await;
            (id, answer)
        });
    }
    while let Some(answer) = asked.join_next().await {
        let (id, answer) = answer.map_err(|_| status::defect("a host was asked without an answer"))?;
        answers.insert(id, answer);
    }
    Ok(answers)
}

async fn ask(call: Call<'_>, host: &HostId, service: &str) -> Result<v1::InfoResponse, Failure> {
    if service.is_empty() {
        let what = "its service address is not known: it has not been up since it joined";
        return Err(Failure::new(z4_types::Kind::Unavailable, reason::UNREACHABLE, what));
    }
    let answers = call.door.peers().call(host, service)?.answers(call.door.bodies());
    let mut client = AdminClient::new(answers).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut request = Request::new(v1::InfoRequest {});
    request.set_timeout(call.deadline.left().min(ANSWER_MAX));
    client.info(request).await.map(tonic::Response::into_inner).map_err(|said| Failure::from_status(&said))
}

/// Returns what is known of one replica.
fn of(shard: ShardId, replica: u64, host: &HostId, answers: &Answers) -> Known {
    let mut known = Known {
        replica: v1::ReplicaDigest { replica, host: host.to_string(), ..Default::default() },
        digests: BTreeMap::new(),
    };
    let here = |info: &v1::InfoResponse| {
        info.shards.iter().find(|each| (each.id, each.replica) == (shard.0, replica)).cloned()
    };
    let found = match answers.get(host) {
        Some(Ok(info)) => here(info).ok_or_else(|| "the host has no replica of the shard yet".to_owned()),
        Some(Err(failure)) => Err(failure.message.clone()),
        None => Err("the host is no member any more".to_owned()),
    };
    match found {
        Ok(shard) => {
            known.replica.applied = shard.applied;
            known.digests = shard.digests.into_iter().map(|each| (each.index, each.digest)).collect();
            known.replica.digest.clone_from(&shard.digest);
            known.digests.insert(shard.applied, shard.digest);
        }
        Err(why) => known.replica.error = why,
    }
    known
}

/// Compares the replicas of one shard.
fn verdict(shard: ShardId, replicas: impl Iterator<Item = Known>) -> v1::ShardVerdict {
    let replicas: Vec<Known> = replicas.collect();
    let mut at: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (index, digest) in replicas.iter().flat_map(|known| &known.digests) {
        at.entry(*index).or_default().push(digest);
    }
    let differ = |digests: &[&str]| digests.iter().any(|digest| *digest != digests[0]);
    // Two that differ are a defect, also while a third one cannot be asked.
    let wrong = at.iter().rev().find(|(_, digests)| differ(digests));
    let right = at.iter().rev().find(|(_, digests)| digests.len() == replicas.len());
    let (result, index) = match (wrong, right) {
        (Some((index, _)), _) => (Verdict::Mismatch, *index),
        (None, Some((index, _))) => (Verdict::Match, *index),
        (None, None) => (Verdict::Unknown, 0),
    };
    let replicas = replicas.into_iter().map(|Known { mut replica, digests }| {
        if let Some(digest) = digests.get(&index) {
            replica.digest.clone_from(digest);
        }
        replica
    });
    v1::ShardVerdict { shard: shard.0, result: result.into(), index, replicas: replicas.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(digests: &[(u64, &str)]) -> Known {
        let digests = digests.iter().map(|(index, digest)| (*index, (*digest).to_owned())).collect();
        Known { replica: v1::ReplicaDigest::default(), digests }
    }

    #[test]
    fn p11_replicas_are_compared_at_one_index_and_two_that_differ_are_enough() {
        let result = |replicas: Vec<Known>| {
            let verdict = verdict(ShardId(1), replicas.into_iter());
            (verdict.result(), verdict.index)
        };
        let (a, b) = (&[(5, "x"), (7, "y")][..], &[(7, "y"), (9, "z")][..]);
        assert_eq!(result(vec![known(a), known(b)]), (Verdict::Match, 7));
        assert_eq!(result(vec![known(a), known(b), known(&[(8, "q")])]), (Verdict::Unknown, 0));
        assert_eq!(result(vec![known(a), known(b), known(&[])]), (Verdict::Unknown, 0), "one is not there");
        assert_eq!(result(vec![known(a), known(&[(7, "n")]), known(&[])]), (Verdict::Mismatch, 7));
        assert_eq!(result(vec![known(a)]), (Verdict::Match, 7), "a replica alone agrees with itself");
    }
}
