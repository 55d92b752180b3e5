//! AddPeer and RemovePeer: who belongs to the cluster.
//!
//! The host carries these to the registry's leader itself, so a door need not forward them.

use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::HostId;

use crate::call::Call;

pub(super) async fn add(call: Call<'_>, request: v1::AddPeerRequest) -> Result<v1::AddPeerResponse, Failure> {
    let host = host_id(request.id)?;
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

fn host_id(text: String) -> Result<HostId, Failure> {
    if text.is_empty() {
        let what = "give the name of the host, as it has it in Z4_PEER_ID";
        return Err(Failure::invalid("id", reason::FIELD_MISSING, what));
    }
    Ok(HostId(text))
}
