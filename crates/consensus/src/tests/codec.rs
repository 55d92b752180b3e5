//! Messages survive their bytes; other bytes are refused and never panic.

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message as RaftMessage, MessageType};
use z4_types::{Index, Term};

use super::rng::Rng;
use crate::{Membership, Message, SnapshotMark};

const KINDS: [MessageType; 10] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgTimeoutNow,
];

/// Returns a message of this kind with some of its fields set.
fn any(kind: MessageType, rng: &mut Rng) -> Message {
    let mut m = RaftMessage::default();
    m.set_msg_type(kind);
    (m.to, m.from, m.term) = (1 + rng.below(9), 1 + rng.next(), 10 + rng.below(1 << 40));
    for field in
        [&mut m.index, &mut m.commit, &mut m.commit_term, &mut m.reject_hint, &mut m.request_snapshot]
    {
        *field = rng.pick(&[0, 1, 77, 1 << 61]);
    }
    m.log_term = rng.below(5);
    m.reject = rng.chance(50);
    m.priority = rng.pick(&[0, 3, -3]);
    if rng.chance(50) {
        m.context = rng.next().to_le_bytes().to_vec().into();
    }
    if kind == MessageType::MsgAppend {
        let mut term = m.log_term.max(1);
        let entries = (0..rng.below(4)).map(|position| {
            term += rng.below(2);
            let mut entry = Entry { index: m.index + 1 + position, term, ..Entry::default() };
            if rng.chance(30) {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
            }
            let len = usize::try_from(rng.below(20)).expect("small");
            entry.data = vec![7; len].into();
            entry
        });
        let entries: Vec<Entry> = entries.collect();
        m.set_entries(entries.into());
    }
    if kind == MessageType::MsgSnapshot {
        let joint = Membership {
            voters: vec![1, 2],
            learners: vec![9],
            voters_outgoing: vec![1, 3],
            learners_next: vec![3],
            auto_leave: true,
        };
        let membership = if rng.chance(50) { joint } else { Membership::single(rng.below(9) + 1) };
        let mark = SnapshotMark { index: Index(1 + rng.below(99)), term: Term(1 + rng.below(9)), membership };
        m.set_snapshot(mark.to_raft());
    }
    Message(m)
}

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    assert_eq!(bytes.len(), message.encoded_len());
    bytes
}

#[test]
fn every_kind_survives_its_bytes_and_every_cut_is_refused() {
    let mut rng = Rng::new(1);
    for _ in 0..200 {
        for kind in KINDS {
            let message = any(kind, &mut rng);
            let bytes = encode(&message);
            let mut whole = Bytes::from(bytes.clone());
            assert_eq!(Message::decode(&mut whole).as_ref(), Ok(&message));
            assert!(whole.is_empty());
            for cut in 0..bytes.len() {
                let mut cut = Bytes::copy_from_slice(&bytes[..cut]);
                assert!(Message::decode(&mut cut).is_err(), "{message:?}");
            }
            let mut longer = bytes;
            longer.push(0);
            assert!(Message::decode(&mut longer.into()).is_err());
        }
    }
}

#[test]
fn changed_and_random_bytes_never_panic_and_one_message_has_one_encoding() {
    let mut rng = Rng::new(2);
    let mut taken = 0;
    for round in 0..40_000 {
        let mut bytes = if round % 4 == 0 {
            (0..rng.below(80)).map(|_| u8::try_from(rng.below(256)).expect("a byte")).collect()
        } else {
            encode(&any(rng.pick(&KINDS), &mut rng))
        };
        for _ in 0..rng.below(3) {
            let Some(at) = (bytes.len() as u64).checked_sub(1).map(|last| rng.below(last + 1)) else { break };
            bytes[usize::try_from(at).expect("small")] ^= 1 << rng.below(8);
        }
        if let Ok(message) = Message::decode(&mut Bytes::from(bytes.clone())) {
            taken += 1;
            assert_eq!(encode(&message), bytes);
        }
    }
    assert!(taken > 10_000, "only {taken} were taken");
}

#[test]
fn entries_share_the_memory_of_the_frame() {
    let mut m = RaftMessage::default();
    m.set_msg_type(MessageType::MsgAppend);
    (m.to, m.from, m.term) = (1, 2, 3);
    let mut entry = Entry { index: 1, term: 3, ..Entry::default() };
    entry.data = Bytes::from_static(b"payload");
    m.set_entries(vec![entry].into());
    let frame = Bytes::from(encode(&Message(m)));
    let message = Message::decode(&mut frame.clone()).expect("round trip");
    let data = &message.0.entries[0].data;
    assert!(frame.as_ptr_range().contains(&data.as_ptr()));
    assert!(!message.is_urgent() && message.snapshot().is_none());
}

#[test]
fn other_versions_and_impossible_messages_are_refused() {
    let mut rng = Rng::new(3);
    let good = encode(&any(MessageType::MsgHeartbeat, &mut rng));
    let refused = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Message::decode(&mut Bytes::from(bytes)).is_err()
    };
    assert!(refused(0, 2), "version");
    assert!(refused(1, 0) && refused(1, 11) && refused(1, 9), "kind");
    assert!(refused(3, 0x80), "fields");
    assert!(refused(27, 0xff), "term out of range");
    let mut entry_out_of_order = any(MessageType::MsgAppend, &mut rng);
    let entry = Entry { index: entry_out_of_order.0.index + 2, term: 9, ..Entry::default() };
    entry_out_of_order.0.set_entries(vec![entry].into());
    assert!(Message::decode(&mut encode(&entry_out_of_order).into()).is_err());
}
