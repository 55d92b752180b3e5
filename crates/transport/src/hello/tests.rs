//! Handshakes survive the wire, and nothing that arrives instead of one makes a reader panic.

use proptest::prelude::*;

use super::*;

fn split(bytes: &[u8]) -> Result<(Envelope, &[u8]), BadHello> {
    let envelope = Envelope::read(bytes[..ENVELOPE_BYTES].try_into().expect("a whole envelope"))?;
    let body = bytes[ENVELOPE_BYTES..].get(..envelope.body_len).ok_or(BadHello::Body)?;
    Ok((envelope, body))
}

fn hello(bytes: &[u8]) -> Result<Hello, BadHello> {
    let (envelope, body) = split(bytes)?;
    Hello::decode(&envelope, body)
}

fn reply(bytes: &[u8]) -> Result<Reply, BadHello> {
    let (envelope, body) = split(bytes)?;
    Reply::decode(&envelope, body)
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterId(7),
        cluster_name: "z4".into(),
        host: HostId("peer1".into()),
        instance: 9,
        address: "peer1:6356".into(),
    }
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let bytes = Hello {
        versions: 1..=3,
        identity: identity(),
        expects: Some(HostId("b".into())),
        purpose: Purpose::Lane(Lane::Bulk),
    }
    .encode();
    assert_eq!(&bytes[..12], b"z4peer\x01\x00\x03\x00\x33\x00");
    let mut expected = vec![2, 7];
    expected.extend([0; 15]);
    expected.extend([9, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend(b"\x02\x00z4\x05\x00peer1\x0a\x00peer1:6356\x01\x00b");
    assert_eq!(bytes[16..], expected);
}

#[test]
fn fields_of_later_versions_are_ignored_and_unknown_reasons_kept() {
    let refusal = Refusal::new(Reason::Other(200), "of the future");
    let told = Reply { versions: 4..=9, identity: identity(), verdict: Err(refusal.clone()) };
    let (_, body) = split(&told.encode()).map(|(head, body)| (head, body.to_vec())).expect("just encoded");
    let longer = seal(&(4..=9), &[&body[..], b"and more"].concat());
    assert_eq!(reply(&longer), Ok(told));
    assert_eq!(Refusal::decode(&refusal.encode()), refusal);
    assert_eq!(Refusal::decode(b"").reason, Reason::Closing);
}

#[test]
fn long_texts_are_cut_between_characters() {
    let refusal = Refusal::new(Reason::Removed, "é".repeat(TEXT_BYTES_MAX));
    assert_eq!(refusal.encode().len(), REFUSAL_BYTES_MAX);
    let refusal = Refusal::new(Reason::Removed, format!("x{}", "é".repeat(TEXT_BYTES_MAX)));
    let read = Refusal::decode(&refusal.encode());
    assert_eq!((read.reason, read.text.len()), (Reason::Removed, TEXT_BYTES_MAX - 1));
}

#[test]
fn every_reason_survives_the_wire_and_none_is_yes() {
    for reason in Reason::ALL {
        assert_eq!(Reason::from_code(reason.code()), reason);
        assert_ne!(reason.code(), 0);
    }
}

#[test]
fn the_highest_common_version_is_chosen() {
    assert_eq!(common(&(1..=3), &(2..=5)), Some(3));
    assert_eq!(common(&(1..=1), &(1..=1)), Some(1));
    assert_eq!(common(&(1..=1), &(2..=5)), None);
    assert_eq!(common(&(4..=5), &(1..=3)), None);
    #[expect(clippy::reversed_empty_ranges, reason = "a peer may send any two numbers")]
    let reversed = 5..=1;
    assert_eq!(common(&(1..=1), &reversed), None);
}

#[test]
fn another_protocol_is_named() {
    let told = |bytes: &[u8; ENVELOPE_BYTES]| Envelope::read(bytes).map(|_| ());
    assert_eq!(told(b"PRI * HTTP/2.0\r\n"), Err(BadHello::Foreign(Foreign::Http2)));
    assert_eq!(told(b"GET / HTTP/1.1\r\n"), Err(BadHello::Foreign(Foreign::Http1)));
}

fn names() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..100).prop_map(|chars| chars.into_iter().collect())
}

fn identities() -> impl Strategy<Value = Identity> {
    (any::<u128>(), names(), "[a-z0-9]{1,30}", any::<u64>(), names()).prop_map(
        |(cluster, cluster_name, host, instance, address)| Identity {
            cluster: ClusterId(cluster),
            cluster_name,
            host: HostId(host),
            instance,
            address,
        },
    )
}

proptest! {
    #[test]
    fn hellos_and_replies_survive_the_wire(
        identity in identities(), low in any::<u16>(), high in any::<u16>(), purpose in 1u8..4,
        expects in proptest::option::of("[a-z]{1,20}"), code in any::<u8>(), text in names(),
    ) {
        let purpose = Purpose::from_code(purpose).expect("1 to 3 are purposes");
        let versions = low..=high;
        let said =
            Hello { versions: versions.clone(), identity: identity.clone(), expects: expects.map(HostId), purpose };
        prop_assert_eq!(hello(&said.encode()), Ok(said));
        let verdict = if code == 0 { Ok(()) } else { Err(Refusal::new(Reason::from_code(code), text)) };
        let answered = Reply { versions, identity, verdict };
        prop_assert_eq!(reply(&answered.encode()), Ok(answered));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_noticed(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let said = Hello { versions: 1..=1, identity: identity(), expects: None, purpose: Purpose::Ask };
        let mut bytes = said.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(hello(&bytes).is_err());
    }

    #[test]
    fn any_cut_of_a_body_is_an_error(keep in 0..49usize) {
        let said = Hello { versions: 1..=1, identity: identity(), expects: None, purpose: Purpose::Ask };
        let body = &said.encode()[ENVELOPE_BYTES..];
        prop_assert_eq!(hello(&seal(&(1..=1), &body[..keep.min(body.len() - 1)])), Err(BadHello::Body));
    }

    #[test]
    fn random_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = seal(&(1..=1), &body);
        let _ = (hello(&bytes), reply(&bytes), Refusal::decode(&body));
        let _ = (hello(&[&body[..], &[0; ENVELOPE_BYTES]].concat()), Foreign::of(&body));
    }
}
