//! Stop strings: the emitted text does not depend on how it is split into pieces.

use flash_text::{StopMatcher, StopOutcome, TextError};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

fn matcher(stops: &[&str]) -> StopMatcher {
    StopMatcher::new(stops.iter().map(|stop| (*stop).to_owned()).collect()).unwrap()
}

/// Streams pieces; returns the output of each, whether the text stopped, and the rest.
fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool, String) {
    let mut matcher = matcher(stops);
    let mut stopped = false;
    let mut emitted = Vec::new();
    for piece in pieces {
        let outcome = matcher.push(piece);
        stopped = outcome.stopped;
        emitted.push(outcome.emit);
    }
    (emitted, stopped, matcher.finish())
}

/// Returns the text before the first complete stop string, found by searching the whole text.
fn reference(stops: &[String], text: &str) -> (String, bool) {
    let cut = (1..=text.len()).filter(|&end| text.is_char_boundary(end)).find_map(|end| {
        let longest = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(String::len).max();
        longest.map(|length| end - length)
    });
    (text[..cut.unwrap_or(text.len())].to_owned(), cut.is_some())
}

/// Returns the number of bytes at the end of `text` that may still become a stop string.
fn may_become(stops: &[String], text: &str) -> usize {
    (0..=text.len())
        .rev()
        .filter(|&length| text.is_char_boundary(text.len() - length))
        .find(|&length| {
            let end = &text[text.len() - length..];
            length == 0 || stops.iter().any(|stop| stop.len() > length && stop.starts_with(end))
        })
        .unwrap_or(0)
}

#[test]
fn pieces_stop_where_the_whole_text_stops() {
    // Few letters and short stop strings, so that matches are frequent and overlap.
    let stop = prop_oneof!["[ab]{1,5}", "[abc😀é]{1,4}"];
    let pieces = prop::collection::vec(prop_oneof!["[ab]{0,4}", "[abc😀é]{0,3}"], 0..12);
    let persistence = Some(Box::new(FileFailurePersistence::WithSource("seeds")) as _);
    let cases = ProptestConfig { failure_persistence: persistence, ..ProptestConfig::with_cases(2000) };
    proptest!(cases, |(stops in prop::collection::vec(stop, 0..4), pieces in pieces)| {
        let mut matcher = StopMatcher::new(stops.clone()).unwrap();
        let (mut text, mut emitted) = (String::new(), String::new());
        for piece in &pieces {
            text.push_str(piece);
            let outcome = matcher.push(piece);
            emitted.push_str(&outcome.emit);
            let (before, stopped) = reference(&stops, &text);
            prop_assert_eq!(outcome.stopped, stopped);
            let n_held = if stopped { 0 } else { may_become(&stops, &text) };
            prop_assert_eq!(&emitted, &before[..before.len() - n_held]);
        }
        emitted.push_str(&matcher.finish());
        prop_assert_eq!(emitted, reference(&stops, &text).0);
    });
}

#[test]
fn a_stop_string_across_pieces_is_never_emitted() {
    let (emitted, stopped, rest) = run(&["</s>"], &["Hi <", "/", "b> <", "/s", "> more", "more"]);
    assert_eq!(emitted, ["Hi ", "", "</b> ", "", "", ""]);
    assert!(stopped);
    assert_eq!(rest, "");
}

#[test]
fn an_incomplete_stop_string_is_emitted_at_the_end() {
    assert_eq!(
        run(&["STOP"], &["go S", "TO"]),
        (vec!["go ".to_owned(), String::new()], false, "STO".to_owned())
    );
}

#[test]
fn the_first_complete_stop_string_wins_however_the_text_is_split() {
    for pieces in [&["abcd"][..], &["a", "b", "c", "d"], &["ab", "cd"]] {
        let (emitted, stopped, _) = run(&["abcd", "bc"], pieces);
        assert_eq!((emitted.concat().as_str(), stopped), ("a", true));
    }
}

#[test]
fn of_stop_strings_that_complete_at_once_the_longest_wins() {
    assert_eq!(run(&["c", "bc", "abc"], &["xab", "c"]).0.concat(), "x");
}

#[test]
fn a_stop_string_may_repeat_itself() {
    assert_eq!(run(&["aab"], &["aa", "aa", "ab"]).0, ["", "aa", "a"]);
    assert_eq!(run(&["abac"], &["aba", "bac"]).0.concat(), "ab");
}

#[test]
fn without_stop_strings_text_passes() {
    assert_eq!(run(&[], &["a", "b"]), (vec!["a".to_owned(), "b".to_owned()], false, String::new()));
}

#[test]
fn nothing_is_emitted_after_a_stop_string() {
    let mut matcher = matcher(&["."]);
    assert_eq!(matcher.push("end. and"), StopOutcome { emit: "end".to_owned(), stopped: true });
    assert_eq!(matcher.push("more"), StopOutcome { emit: String::new(), stopped: true });
    assert_eq!(matcher.finish(), "");
}

#[test]
fn an_empty_stop_string_is_refused() {
    let error = StopMatcher::new(vec!["a".to_owned(), String::new()]).unwrap_err();
    assert!(matches!(error, TextError::EmptyStop { index: 1 }), "{error}");
}
