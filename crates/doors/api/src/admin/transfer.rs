//! TransferLeader: hands the leadership of a shard to another of its voters, and waits until it has it.

use z4_host::Route;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::{HostId, Kind, ShardId};

use crate::call::Call;
use crate::forward::Pauses;
use crate::status;

pub(super) async fn transfer(
    call: Call<'_>,
    request: v1::TransferLeaderRequest,
) -> Result<v1::TransferLeaderResponse, Failure> {
    if request.host.is_empty() {
        let what = "give the name of the host that shall lead";
        return Err(Failure::invalid("host", reason::FIELD_MISSING, what));
    }
    let shard = ShardId(request.shard);
    if call.handle().registry().shard(shard).is_none() {
        return Err(status::failure(&z4_host::Error::NoSuchShard(shard)));
    }
    call.serve(shard, request, |request| here(call, shard, HostId(request.host))).await
}

/// Hands it over: this host leads.
async fn here(call: Call<'_>, shard: ShardId, to: HostId) -> Result<v1::TransferLeaderResponse, Failure> {
    call.write(call.handle().transfer_leader(shard, to.clone())).await?;
    let mut pauses = Pauses::default();
    loop {
        let there = match call.door.route(shard) {
            Route::Here => to == call.handle().identity().host,
            Route::There { host, .. } => host == to,
            Route::Nowhere => false,
        };
        if there {
            return Ok(v1::TransferLeaderResponse::default());
        }
        let what = format!(
            "host {to} did not take over shard {shard} in time; see `shard list` for who leads it, and try again"
        );
        pauses.wait(call, Failure::new(Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN, what)).await?;
    }
}
