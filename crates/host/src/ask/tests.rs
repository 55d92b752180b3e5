//! The bytes of questions and answers.

use z4_types::ClusterId;

use super::*;

fn registry() -> Registry {
    Registry::form(ClusterId(7), "z4", z4_registry::Host::new(HostId("a".into()), "a:1"), 1)
}

fn questions() -> Vec<Question> {
    vec![
        Question::Greet,
        Question::Adopt(registry()),
        Question::Join { address: "b:1".into(), service: "b:2".into() },
        Question::Command(Command::RemoveHost { host: HostId("b".into()) }),
        Question::Leaders,
        Question::Clock,
    ]
}

fn answers() -> Vec<Answer> {
    let (host, shard) = (HostId("b".into()), ShardId(3));
    let refusals = [
        Refusal::Invalid("why".into()),
        Refusal::NotFound(host.clone()),
        Refusal::AlreadyMember { host: host.clone(), address: "b:1".into() },
        Refusal::AddressInUse { address: "b:1".into(), host: host.clone() },
        Refusal::LastVoter(host.clone()),
        Refusal::WrongInstance(host.clone()),
        Refusal::Removed(host.clone()),
        Refusal::StillMoving(shard),
        Refusal::OnlyReplica { host: host.clone(), shard },
        Refusal::TooManyHosts(256),
        Refusal::NoPolicy("acme/*".into()),
        Refusal::TooManyPolicies(1_000),
    ];
    let mut answers: Vec<Answer> = refusals.into_iter().map(Answer::Refused).collect();
    answers.extend(KINDS.map(|kind| Answer::Failed(kind, "what".into())));
    answers.extend([
        Answer::Greeting(Greeting { member: true, your_instance: 9, led: false }),
        Answer::Done,
        Answer::Registry(registry()),
        Answer::Elsewhere(None),
        Answer::Elsewhere(Some((host, "b:1".into()))),
        Answer::Unknown,
        Answer::Leaders(vec![(shard, 12), (ShardId(4), 0)]),
        Answer::Clock(Millis(u64::MAX)),
    ]);
    answers
}

#[test]
fn questions_and_answers_have_their_golden_bytes() {
    let join = Question::Join { address: "b:1".into(), service: String::new() };
    assert_eq!(join.encode(), [1, 3, 3, 0, 0, 0, b'b', b':', b'1', 0, 0, 0, 0]);
    let greeting = Answer::Greeting(Greeting { member: true, your_instance: 0x0102, led: true });
    assert_eq!(greeting.encode(), [1, 1, 1, 2, 1, 0, 0, 0, 0, 0, 0, 1]);
    let refused = Answer::Refused(Refusal::OnlyReplica { host: HostId("b".into()), shard: ShardId(3) });
    assert_eq!(refused.encode(), [1, 4, 9, 1, 0, 0, 0, b'b', 3, 0, 0, 0]);
    let elsewhere = Answer::Elsewhere(Some((HostId("b".into()), "c".into())));
    assert_eq!(elsewhere.encode(), [1, 5, 1, 0, 0, 0, b'b', 1, 0, 0, 0, b'c']);
    assert_eq!(Answer::Failed(Kind::Internal, String::new()).encode(), [1, 7, 10, 0, 0, 0, 0]);
    let leaders = Answer::Leaders(vec![(ShardId(3), 12)]);
    assert_eq!(leaders.encode(), [1, 8, 1, 0, 0, 0, 3, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Question::Clock.encode(), [1, 6]);
    assert_eq!(Answer::Clock(Millis(0x0102)).encode(), [1, 9, 2, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn what_was_said_reads_back_and_damage_is_refused() {
    fn check<T: PartialEq + std::fmt::Debug>(
        value: &T,
        bytes: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) {
        assert_eq!(decode(bytes).as_ref(), Ok(value));
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "{value:?} cut at {cut}");
        }
        assert!(decode(&[bytes, &[0]].concat()).is_err(), "{value:?} and one byte more");
        assert!(decode(&[&[2], &bytes[1..]].concat()).is_err(), "{value:?} of another version");
    }
    for question in questions() {
        check(&question, &question.encode(), Question::decode);
    }
    for answer in answers() {
        check(&answer, &answer.encode(), Answer::decode);
    }
}
