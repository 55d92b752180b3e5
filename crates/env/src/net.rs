//! The network between hosts: frames that may be lost, repeated or reordered, never torn.
//!
//! One host needs no network; the trait is here so that the drivers hand their frames to it from the first
//! commit. The real one is `z4-transport` (TCP lanes), the simulated one lives in `z4-sim`.

use z4_types::HostId;

/// One message from host to host. Urgent frames (heartbeats, votes) never wait behind bulk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether the frame takes the urgent lane.
    pub urgent: bool,
    /// The bytes; their layout belongs to the sender.
    pub body: Vec<u8>,
}

/// Sends frames. Raft tolerates loss, so a full lane drops instead of waiting.
pub trait Net: Send {
    /// Hands `frame` to the lane towards `to`; returns false if the lane is full and the frame was dropped.
    fn send(&mut self, to: &HostId, frame: Frame) -> bool;
}
