//! The wire of the gRPC API: .proto files, the code generated from them, and conversions to and from z4's own types.
//!
//! Generated types stay in the doors and the client; everything inward speaks `z4-types` and `z4-tasks`: what comes in is
//! translated once, at the door.
//!
//! # Not here
//! - Serving and calling: the api door and `z4-client`.
//! - The peer protocol and the log: those are not protobuf (`docs/FORMATS.md`).

pub mod convert;
pub mod reason;
pub mod status;

pub use prost_types::{Duration, FieldMask, Timestamp};

/// The generated code of package `z4.v1`: messages, clients and server traits. Read the .proto files instead.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::disallowed_methods, clippy::disallowed_types)]
pub mod v1 {
    tonic::include_proto!("z4.v1");
}

/// The descriptors of every .proto file, encoded as `google.protobuf.FileDescriptorSet`: what reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/z4.v1.bin"));

/// Largest gRPC message, bytes; set it on both sides, because tonic's default of 4 MiB is below one full batch.
pub const MESSAGE_BYTES_MAX: usize = z4_types::limits::FRAME_BYTES_MAX;
