//! Offsets from stepped clocks, and the words they are worth.

use super::*;

const SECOND_NS: u64 = 1_000_000_000;
const HOUR_MS: i64 = 3_600_000;
/// 2001-09-09, when our clock begins.
const BEGIN_MS: u64 = 1_000_000_000_000;

/// Host `a`, its clock, and where the clocks of others stand by it.
struct Bench {
    clocks: Clocks,
    now_ns: u64,
}

fn host(name: &str) -> HostId {
    HostId(name.to_owned())
}

impl Bench {
    fn new() -> Self {
        Self { clocks: Clocks::new(host("a")), now_ns: 0 }
    }

    /// Five seconds later each of `peers` was asked: its clock is so many milliseconds ahead, the question was so many
    /// on its way, and the answer so many.
    fn round(&mut self, peers: &[(&str, i64, u64, u64)]) -> Vec<News> {
        self.now_ns += 5 * SECOND_NS;
        let now_ms = BEGIN_MS + self.now_ns / 1_000_000;
        let exchanges: Vec<_> = peers
            .iter()
            .map(|(peer, ahead_ms, there_ms, back_ms)| {
                let read_at = now_ms - back_ms;
                let exchange = Exchange {
                    theirs: Millis(read_at.saturating_add_signed(*ahead_ms)),
                    ours: Millis(now_ms),
                    took: Duration::from_millis(there_ms + back_ms),
                };
                (host(peer), exchange)
            })
            .collect();
        self.clocks.round(exchanges, self.now_ns)
    }

    fn of(&self, peer: &str) -> PeerClock {
        self.clocks.known(self.now_ns)[&host(peer)]
    }
}

fn off(news: &[News]) -> Vec<(&str, i64)> {
    news.iter()
        .map(|news| match news {
            News::Off { peer, offset_ms, .. } => (peer.0.as_str(), *offset_ms),
            News::Back { .. } => panic!("a clock is back: {news:?}"),
        })
        .collect()
}

#[test]
fn the_middle_of_the_round_trip_is_taken_and_the_rest_is_owned_up_to() {
    let mut bench = Bench::new();
    assert_eq!(bench.round(&[("b", 0, 0, 0), ("c", 40, 10, 10), ("d", -40, 10, 10)]), []);
    assert_eq!((bench.of("b").offset_ms, bench.of("b").uncertainty_ms), (0, 2));
    assert_eq!((bench.of("c").offset_ms, bench.of("c").uncertainty_ms), (40, 12));
    assert_eq!(bench.of("d").offset_ms, -40);
    // All of the way there, or all of the way back: as wrong as it can be, and within what is owned up to.
    for (there_ms, back_ms) in [(900, 0), (0, 900), (450, 450)] {
        for ahead_ms in [-2 * HOUR_MS, -1, 0, 1, 777, 2 * HOUR_MS] {
            bench.round(&[("b", ahead_ms, there_ms, back_ms)]);
            let PeerClock { offset_ms, uncertainty_ms, .. } = bench.of("b");
            assert!(offset_ms.abs_diff(ahead_ms) <= uncertainty_ms, "{offset_ms} for {ahead_ms}");
            assert_eq!(uncertainty_ms, 452);
        }
    }
}

#[test]
fn a_slow_answer_is_not_taken_for_a_wrong_clock() {
    let mut bench = Bench::new();
    // Seems 1.4 s ahead, by an answer that was underway for 1.4 s: it could be right.
    assert_eq!(bench.round(&[("b", 700, 1_400, 0)]), []);
    assert_eq!(bench.of("b").offset_ms, 1_400);
    assert!(!bench.of("b").off);
    assert_eq!(off(&bench.round(&[("b", 2_000, 1_400, 0)])), [("b", 2_700)]);
}

#[test]
fn a_clock_that_jumps_is_told_at_once_then_once_a_minute_then_that_it_is_back() {
    let mut bench = Bench::new();
    assert_eq!(bench.round(&[("b", 3, 1, 1), ("c", 0, 1, 1)]), []);
    let news = bench.round(&[("b", 2 * HOUR_MS, 1, 1), ("c", 0, 1, 1)]);
    let [News::Off { peer, offset_ms: 7_200_000, text }] = &news[..] else { panic!("{news:?}") };
    assert_eq!(*peer, host("b"));
    for part in ["host b", "7200.000 s ahead of that of host a", "NTP", "their shard's leader"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("look there first"), "b is the odd one: {text}");
    assert_eq!(bench.clocks.warnings(bench.now_ns), [text.as_str()]);
    let said: usize =
        (0..24).map(|_| off(&bench.round(&[("b", 2 * HOUR_MS, 1, 1), ("c", 0, 1, 1)])).len()).sum();
    assert_eq!(said, 2, "once a minute for two minutes");
    let back = bench.round(&[("b", 3, 1, 1), ("c", 0, 1, 1)]);
    assert_eq!(back, [News::Back { peer: host("b"), offset_ms: 3 }]);
    assert_eq!(bench.clocks.warnings(bench.now_ns), Vec::<String>::new());
    assert_eq!(bench.round(&[("b", 3, 1, 1)]), [], "that is said once");
    // Off again within the minute: shown, but not said again.
    assert_eq!(bench.round(&[("b", -HOUR_MS, 1, 1)]), []);
    assert!(bench.of("b").off);
    assert_eq!(bench.round(&[("b", 0, 1, 1)]), [], "and what was not said is not called back");
}

#[test]
fn a_clock_at_the_limit_makes_no_stream_of_news() {
    let mut bench = Bench::new();
    let mut off_at = |ahead_ms| {
        bench.round(&[("b", ahead_ms, 0, 0)]);
        bench.of("b").off
    };
    assert!(!off_at(1_000), "not more than the limit");
    assert!(!off_at(1_002), "not for certain");
    assert!(off_at(1_003));
    assert!(off_at(999), "once off it stays so");
    assert!(off_at(-498));
    assert!(!off_at(497));
    assert!(!off_at(-1_000), "once back it stays so");
    assert!(off_at(-1_003));
}

#[test]
fn whoever_differs_alike_from_most_others_says_so_of_itself() {
    let odd = |peers: &[(&str, i64, u64, u64)]| {
        let mut bench = Bench::new();
        bench.round(peers);
        let warnings = bench.clocks.warnings(bench.now_ns);
        assert!(!warnings.is_empty());
        warnings.iter().all(|text| text.contains("most hosts differ from a in the same way"))
    };
    assert!(odd(&[("b", -2 * HOUR_MS, 1, 1), ("c", -2 * HOUR_MS, 1, 1)]));
    assert!(odd(&[("b", HOUR_MS, 1, 1), ("c", HOUR_MS, 1, 1), ("d", 0, 1, 1)]));
    assert!(!odd(&[("b", HOUR_MS, 1, 1)]), "of two nobody knows");
    assert!(!odd(&[("b", HOUR_MS, 1, 1), ("c", 0, 1, 1)]));
    assert!(!odd(&[("b", HOUR_MS, 1, 1), ("c", -HOUR_MS, 1, 1)]));
}

#[test]
fn a_host_that_is_silent_or_gone_has_no_known_clock() {
    let mut bench = Bench::new();
    bench.round(&[("b", HOUR_MS, 1, 1), ("c", 0, 1, 1)]);
    for _ in 0..6 {
        bench.round(&[("c", 0, 1, 1)]);
    }
    assert_eq!(bench.of("b").age_ms, 30_000, "nothing newer, but not old yet");
    bench.round(&[("c", 0, 1, 1)]);
    assert_eq!(bench.clocks.known(bench.now_ns).into_keys().collect::<Vec<_>>(), [host("c")]);
    assert_eq!(bench.clocks.warnings(bench.now_ns), Vec::<String>::new());
    bench.clocks.keep(&BTreeMap::from([(host("b"), ())]));
    assert!(bench.clocks.known(bench.now_ns).is_empty());
    // It comes back with a good clock: what was said of it before is taken back.
    assert_eq!(bench.round(&[("b", 0, 1, 1)]), [News::Back { peer: host("b"), offset_ms: 0 }]);
}

#[test]
fn any_number_another_host_says_is_an_offset() {
    let mut bench = Bench::new();
    let [old, new] = [0, u64::MAX].map(Millis);
    for (theirs, ours) in [(old, new), (new, old), (new, new)] {
        let exchange = Exchange { theirs, ours, took: Duration::MAX };
        bench.clocks.round([(host("b"), exchange)], 1);
    }
    let exchange = Exchange { theirs: new, ours: old, took: Duration::ZERO };
    bench.clocks.round([(host("b"), exchange)], 1);
    assert_eq!(bench.clocks.known(1)[&host("b")].offset_ms, i64::MAX);
    assert!(bench.clocks.known(1)[&host("b")].off);
}

#[test]
fn who_had_better_not_lead_is_the_odd_one_or_whoever_is_off() {
    let mut bench = Bench::new();
    let astray = |bench: &Bench| bench.clocks.astray(bench.now_ns);
    bench.round(&[("b", 0, 1, 1), ("c", 2 * HOUR_MS, 1, 1)]);
    assert_eq!(astray(&bench), BTreeSet::from([host("c")]));
    bench.round(&[("b", -2 * HOUR_MS, 1, 1), ("c", -2 * HOUR_MS, 1, 1)]);
    assert_eq!(astray(&bench), BTreeSet::from([host("a")]), "not the others: this one");
    bench.round(&[("b", 0, 1, 1), ("c", 0, 1, 1)]);
    assert!(astray(&bench).is_empty());
}
