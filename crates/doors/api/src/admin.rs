//! Service `z4.v1.Admin`: who is in the cluster, how each shard stands, what the host knows about itself. One verb, one
//! file; this is the dispatch.
//!
//! # Not here
//! - Changing members: the host does it, by itself or by asking the registry's leader.

mod diagnostic;
mod info;
mod members;
mod shards;
mod transfer;
mod verify;

use tonic::{Request, Response, Status, async_trait};
use z4_proto::convert::timestamp;
use z4_proto::v1;
use z4_proto::v1::admin_server::Admin;

use crate::call::unary;
use crate::door::Door;

/// See the module essay.
pub(crate) struct AdminService {
    door: Door,
}

impl AdminService {
    pub(crate) fn new(door: Door) -> Self {
        Self { door }
    }
}

#[async_trait]
impl Admin for AdminService {
    async fn info(&self, request: Request<v1::InfoRequest>) -> Result<Response<v1::InfoResponse>, Status> {
        unary!(self, request, info::info)
    }

    async fn ping(&self, _: Request<v1::PingRequest>) -> Result<Response<v1::PingResponse>, Status> {
        let handle = self.door.handle();
        let server_id = handle.identity().host.to_string();
        let (time, warnings) = (Some(timestamp(self.door.wall())), handle.warnings());
        Ok(Response::new(v1::PingResponse { server_id, time, warnings }))
    }

    async fn diagnostic(
        &self,
        request: Request<v1::DiagnosticRequest>,
    ) -> Result<Response<v1::DiagnosticResponse>, Status> {
        unary!(self, request, diagnostic::diagnostic)
    }

    async fn add_peer(
        &self,
        request: Request<v1::AddPeerRequest>,
    ) -> Result<Response<v1::AddPeerResponse>, Status> {
        unary!(self, request, members::add)
    }

    async fn remove_peer(
        &self,
        request: Request<v1::RemovePeerRequest>,
    ) -> Result<Response<v1::RemovePeerResponse>, Status> {
        unary!(self, request, members::remove)
    }

    async fn list_shards(
        &self,
        request: Request<v1::ListShardsRequest>,
    ) -> Result<Response<v1::ListShardsResponse>, Status> {
        unary!(self, request, shards::list)
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        unary!(self, request, transfer::transfer)
    }

    async fn verify_shards(
        &self,
        request: Request<v1::VerifyShardsRequest>,
    ) -> Result<Response<v1::VerifyShardsResponse>, Status> {
        unary!(self, request, verify::verify)
    }
}
