//! AddPeer and RemovePeer: who belongs to the cluster.
//!
//! The host carries these to the registry's leader itself, so a door need not forward them.

use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::{HostId, ShardId};

use super::shards::leader_of;
use crate::call::Call;

pub(super) async fn add(call: Call<'_>, request: v1::AddPeerRequest) -> Result<v1::AddPeerResponse, Failure> {
    let host = host_id(request.id)?;
    refuse_leader(call, &host)?;
    if request.address.is_empty() {
        let what = "give the peer address of the host to add, host:port";
        return Err(Failure::invalid("address", reason::FIELD_MISSING, what));
    }
    call.write(call.handle().add_peer(host, request.address)).await?;
    Ok(v1::AddPeerResponse {})
}

pub(super) async fn remove(
    call: Call<'_>,
    request: v1::RemovePeerRequest,
) -> Result<v1::RemovePeerResponse, Failure> {
    call.write(call.handle().remove_peer(host_id(request.id)?)).await?;
    Ok(v1::RemovePeerResponse {})
}

/// A host may be added again, for the first answer may have been lost; or in place of one that lost its disk. Neither is
/// true of one that answers this call or leads the cluster: its name was given to two hosts.
fn refuse_leader(call: Call<'_>, host: &HostId) -> Result<(), Failure> {
    let leads = leader_of(call.door, ShardId(0)).as_ref() == Some(host);
    if !leads && *host != call.handle().identity().host {
        return Ok(());
    }
    let registry = call.handle().registry();
    let at = registry.host(host).map_or("", |known| known.address.as_str());
    let what = format_args!(
        "host {host} is a member already, reached at {at}, and {}; give the host to add a name of its own, by its \
         Z4_PEER_ID",
        if leads { "leads the cluster" } else { "answers this call" }
    );
    Err(Failure::invalid("id", reason::ALREADY_MEMBER, what))
}

fn host_id(text: String) -> Result<HostId, Failure> {
    if text.is_empty() {
        let what = "give the name of the host, as it has it in Z4_PEER_ID";
        return Err(Failure::invalid("id", reason::FIELD_MISSING, what));
    }
    Ok(HostId(text))
}
