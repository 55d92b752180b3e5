//! `shard verify [SHARD…]`: do the replicas hold the same state? Exit code 0 if all do, 1 if any differ, 6 if some could
//! not be compared.

use serde::Serialize;
use z4_client::{Client, ShardVerdict, Verified};

use crate::failure::Failure;
use crate::output;

/// Exit code of replicas that differ.
const DIFFER: u8 = 1;
/// And of those that could not all be compared.
const UNKNOWN: u8 = 6;

#[derive(Serialize)]
struct VerdictJson<'a> {
    shard: u32,
    result: &'a str,
    index: u64,
    replicas: Vec<ReplicaJson<'a>>,
}

#[derive(Serialize)]
struct ReplicaJson<'a> {
    replica: u64,
    host: &'a str,
    applied: u64,
    digest: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

pub(super) async fn run(client: &Client, shards: &[u32], json: bool) -> Result<(), Failure> {
    let verdicts = client.verify_shards(shards).await?;
    if json {
        verdicts.iter().try_for_each(|verdict| output::json(&as_json(verdict)))?;
    } else {
        let rows: Vec<_> = verdicts
            .iter()
            .map(|verdict| {
                let replicas: Vec<_> = verdict.replicas.iter().map(|each| each.host.clone()).collect();
                let index = verdict.index.to_string();
                [verdict.shard.to_string(), word(verdict).to_owned(), index, replicas.join(", ")]
            })
            .collect();
        output::table(["SHARD", "RESULT", "INDEX", "REPLICAS"], &rows)?;
    }
    for verdict in &verdicts {
        for replica in verdict.replicas.iter().filter(|replica| !replica.error.is_empty()) {
            output::talk(format_args!("shard {} on {}: {}", verdict.shard, replica.host, replica.error));
        }
    }
    match code(&verdicts) {
        0 => Ok(()),
        code => Err(Failure::Partly(code)),
    }
}

fn as_json(verdict: &ShardVerdict) -> VerdictJson<'_> {
    let replicas = verdict.replicas.iter().map(|each| ReplicaJson {
        replica: each.replica,
        host: &each.host,
        applied: each.applied,
        digest: &each.digest,
        error: Some(each.error.as_str()).filter(|error| !error.is_empty()),
    });
    VerdictJson {
        shard: verdict.shard,
        result: word(verdict),
        index: verdict.index,
        replicas: replicas.collect(),
    }
}

fn word(verdict: &ShardVerdict) -> &'static str {
    match verdict.result() {
        Verified::Match => "match",
        Verified::Mismatch => "mismatch",
        Verified::Unknown | Verified::Unspecified => "unknown",
    }
}

/// Returns the exit code: a difference is worse than not to know.
fn code(verdicts: &[ShardVerdict]) -> u8 {
    let any = |result| verdicts.iter().any(|verdict| verdict.result() == result);
    if any(Verified::Mismatch) {
        DIFFER
    } else if verdicts.iter().all(|verdict| verdict.result() == Verified::Match) {
        0
    } else {
        UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_1_and_not_to_know_is_6() {
        let code = |results: &[Verified]| {
            let verdict = |result: &Verified| ShardVerdict { result: (*result).into(), ..Default::default() };
            code(&results.iter().map(verdict).collect::<Vec<_>>())
        };
        assert_eq!(code(&[Verified::Match, Verified::Match]), 0);
        assert_eq!(code(&[Verified::Match, Verified::Unknown]), 6);
        assert_eq!(code(&[Verified::Unknown, Verified::Mismatch]), 1);
    }
}
