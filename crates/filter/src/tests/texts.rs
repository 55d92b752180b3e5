//! Texts that fit in no line of a script: long, deep, with line breaks and odd characters.

use z4_types::{Kind, Millis};

use super::NOW;
use crate::{DEPTH_MAX, Filter, TERMS_MAX, TEXT_BYTES_MAX};

fn problem(text: &str) -> (usize, usize, String) {
    let error = Filter::parse(text, NOW).expect_err("it is refused");
    assert_eq!(error.kind(), Kind::Invalid);
    (error.line(), error.column(), error.problem().to_owned())
}

#[test]
fn a_text_of_the_longest_length_is_read_and_a_longer_one_refused() {
    let longest = format!("key = {:x<1$}", "", TEXT_BYTES_MAX - 6);
    assert!(Filter::parse(&longest, NOW).is_ok());
    let (line, column, why) = problem(&format!("{longest}x"));
    assert_eq!((line, column), (1, TEXT_BYTES_MAX + 1));
    assert_eq!(why, "a filter has at most 4096 bytes, this one has 4097");
    // The limit may fall within a character.
    assert_eq!(problem(&format!("key = é{:é<1$}", "", TEXT_BYTES_MAX)).0, 1);
}

#[test]
fn as_many_terms_as_allowed_are_read_and_one_more_refused() {
    let terms = vec!["id=0*"; TERMS_MAX].join(" ");
    assert!(Filter::parse(&terms, NOW).is_ok());
    let (_, column, why) = problem(&format!("{terms} id=0*"));
    assert_eq!((column, why.as_str()), (terms.len() + 2, "a filter has at most 100 terms"));
}

#[test]
fn the_deepest_nesting_is_read_and_a_deeper_one_refused() {
    for open in ["(", "NOT "] {
        let close = if open == "(" { ")" } else { "" };
        let nested = |depth: usize| format!("{}state=dead{}", open.repeat(depth), close.repeat(depth));
        assert!(Filter::parse(&nested(DEPTH_MAX), NOW).is_ok());
        let (_, column, why) = problem(&nested(DEPTH_MAX + 1));
        assert_eq!(column, DEPTH_MAX * open.len() + 1);
        assert_eq!(why, "parentheses and NOTs nest at most 32 deep");
        // Far deeper than any stack.
        assert_eq!(problem(&open.repeat(TEXT_BYTES_MAX / open.len())).1, column);
    }
}

#[test]
fn lines_are_counted_and_only_the_one_at_fault_is_shown() {
    let error = Filter::parse("state = dead\r\n\tAND prio = 1\nAND x = 1", NOW).expect_err("no such field");
    assert_eq!((error.line(), error.column(), error.token()), (2, 6, "prio"));
    let problem = "line 2, column 6: prio is no field of a task; there are state, priority, deliver_at, created_at, \
                   deliveries, failures, key, group, consumer, last_error, metadata, id";
    let shown = format!("{problem}\n   AND prio = 1\n       ^^^^");
    assert_eq!(error.to_string(), shown);
}

#[test]
fn a_long_line_is_shown_around_the_place() {
    let text = format!("key = \"{}\" AND statt = dead AND group = \"{}\"", "x".repeat(100), "y".repeat(100));
    let error = Filter::parse(&text, NOW).expect_err("no such field");
    assert_eq!((error.line(), error.column()), (1, 114));
    let shown = error.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "column 114: statt is no field of a task; did you mean state?");
    assert!(lines[1].starts_with("  …xxx") && lines[1].ends_with("yyy…"), "{shown}");
    let caret = lines[2].find('^').expect("a caret");
    let under: String = lines[1].chars().skip(caret).take(5).collect();
    assert_eq!((under.as_str(), lines[2].trim()), ("statt", "^^^^^"));
}

#[test]
fn columns_are_characters() {
    assert_eq!(problem("key = 'größe ✓' x = 1").1, 17);
    assert_eq!(problem("ключ = 1").1, 1);
    assert_eq!(problem("state = dead\u{0}").1, 9);
    assert_eq!(problem("\u{0}").1, 1);
}

#[test]
fn the_empty_filter_asks_nothing() {
    for text in ["", " ", "\n\t\r"] {
        let filter = Filter::parse(text, NOW).expect("nothing to refuse");
        assert!(filter.is_empty());
        assert_eq!(filter.to_string(), "");
        assert_eq!(filter.bounds().phases().count(), 7);
    }
    assert!(!Filter::parse("id >= 0*", NOW).is_ok_and(|filter| filter.is_empty()));
    assert!(!Filter::parse("priority >= 0", NOW).expect("reads").is_empty());
}

#[test]
fn a_clock_past_every_nameable_time_is_taken_as_the_last() {
    let filter = Filter::parse("state = scheduled deliver_at > now+1d", Millis::NEVER).expect("reads");
    let again = Filter::parse(&filter.to_string(), Millis::NEVER).expect("reads");
    assert_eq!(filter, again);
}

#[test]
fn escapes_mean_one_character_each_and_print_back() {
    let filter = Filter::parse(r#"key = "\"\'\\\*\n\r\t\u{e9}\u{1F600}\u{7}""#, NOW).expect("reads");
    assert_eq!(filter.to_string(), "key = \"\\\"'\\\\\\*\\n\\r\\té😀\\u{7}\"");
    assert_eq!(Filter::parse(&filter.to_string(), NOW), Ok(filter));
}
