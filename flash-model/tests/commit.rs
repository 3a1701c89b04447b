//! Drafts: of tokens that are taken back, nothing is left.

// The CPU kernels are available on Linux only, and MLX's own operations do not promise it.
#![cfg(target_os = "linux")]

#[path = "common/alone.rs"]
mod alone;
#[path = "common/contexts.rs"]
mod contexts;
#[path = "common/family.rs"]
mod family;
#[path = "common/tokens.rs"]
mod tokens;

use alone::{CONTEXTS, TOKENS, alone};
use contexts::{FAMILIES, Memory, engine};
use family::family;
use flash_model::{Compute, Context, KvFormat, KvPolicy, Logits, ModelError, Segment};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokens::{bits, sequence};

/// Maximum tokens of a draft.
const DRAFT_TOKENS: usize = 40;

/// A step of one context.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Appends tokens.
    Append(usize),
    /// Runs a draft of right tokens, then wrong ones, and keeps the first of the right ones, as many as the last number.
    Draft(usize, usize, usize),
    /// Runs a draft, and forgets about it.
    Forget(usize),
    /// Continues with a fork that is made while a draft is neither kept nor taken back.
    Fork(usize),
    /// Moves the context to disk while a draft is neither kept nor taken back.
    Park(usize),
}

/// A script of passes, each of some contexts.
#[derive(Debug, Clone)]
struct Script {
    family: &'static str,
    memory: Memory,
    format: KvFormat,
    passes: Vec<Vec<(usize, Step)>>,
}

fn scripts() -> impl Strategy<Value = Script> {
    let step = prop_oneof![
        2 => prop_oneof![Just(1_usize), 2_usize..9, 60_usize..140].prop_map(Step::Append),
        5 => (0_usize..9, 0_usize..9, 0_usize..9).prop_map(|(right, wrong, kept)| Step::Draft(right, wrong, kept)),
        1 => (20_usize..36, 0_usize..4, 0_usize..36).prop_map(|(right, wrong, kept)| Step::Draft(right, wrong, kept)),
        1 => (1_usize..9).prop_map(Step::Forget),
        1 => (0_usize..9).prop_map(Step::Fork),
        2 => (0_usize..9).prop_map(Step::Park),
    ];
    let passes = prop::collection::vec(prop::collection::vec((0_usize..3, step), 1..4), 1..14);
    let memory = prop::sample::select(vec![Memory::Floor, Memory::Plenty]);
    let formats = vec![KvFormat::Exact, KvFormat::F16, KvFormat::Int8, KvFormat::Int4];
    (prop::sample::select(FAMILIES.to_vec()), memory, prop::sample::select(formats), passes)
        .prop_map(|(family, memory, format, passes)| Script { family, memory, format, passes })
}

/// A context's part of a pass.
struct Part {
    idx: usize,
    tokens: Vec<u32>,
    is_tentative: bool,
    n_right: usize,
    n_kept: usize,
    forks: bool,
    parks: bool,
}

/// Returns the part of a context that holds `held` tokens of `ids` and has `room` for a draft.
fn part(idx: usize, step: Step, ids: &[u32], held: usize, room: usize, vocab: usize) -> Part {
    let left = TOKENS - held;
    let (n_right, n_wrong, n_kept, is_tentative) = match step {
        Step::Append(n) => (n.min(left), 0, 0, false),
        Step::Draft(right, wrong, kept) => (right.min(left), wrong, kept, true),
        Step::Forget(n) => (0, n, 0, true),
        Step::Fork(n) | Step::Park(n) => (n.min(left), 1, 0, true),
    };
    let (forks, parks) = (matches!(step, Step::Fork(_)), matches!(step, Step::Park(_)));
    let (n_right, n_wrong) = match is_tentative {
        true => (n_right.min(room), n_wrong.min(room - n_right.min(room))),
        false => (n_right, 0),
    };
    let wrong = (0..n_wrong).map(|at| ((at * 17 + 3 + held) % vocab) as u32);
    let tokens = ids[held..held + n_right].iter().copied().chain(wrong).collect();
    Part { idx, tokens, is_tentative, n_right, n_kept: n_kept.min(n_right), forks, parks }
}

/// Runs a script, and compares all logits of right tokens with those of each context alone.
fn check(script: &Script) -> Result<(), TestCaseError> {
    let (dir, vocab) = family(script.family);
    let mut engine = engine(&dir, Compute::Auto, script.memory, KvPolicy::new(script.format), 1 + CONTEXTS);
    let mut contexts: Vec<Context> = (0..3).map(|_| engine.new_context()).collect();
    let sequences: Vec<_> = (0..3).map(|idx| sequence(idx, TOKENS, vocab)).collect();
    let wanted = alone(script.family, script.format);
    let mut logits = Logits::default();
    for (pass_idx, steps) in script.passes.iter().enumerate() {
        let mut parts: Vec<Part> = Vec::new();
        for (idx, context) in contexts.iter().enumerate() {
            let Some((_, step)) = steps.iter().find(|(of, _)| *of == idx) else { continue };
            let (held, room) = (context.held_tokens(), context.tentative_room().min(DRAFT_TOKENS));
            parts.push(part(idx, *step, &sequences[idx], held, room, vocab));
        }
        parts.retain(|part| !part.tokens.is_empty());
        let segments = contexts.iter_mut().enumerate().filter_map(|(idx, context)| {
            let part = parts.iter().find(|part| part.idx == idx)?;
            let all = Segment::tentative(context, &part.tokens);
            Some(Segment { is_tentative: part.is_tentative, ..all })
        });
        let mut segments: Vec<_> = segments.collect();
        let outcomes = engine.pass(&mut segments, &mut logits).unwrap();
        prop_assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        drop(segments);
        for (segment_idx, part) in parts.iter().enumerate() {
            let context = &mut contexts[part.idx];
            let held = context.held_tokens();
            let start = held - if part.is_tentative { 0 } else { part.tokens.len() };
            let got: Vec<_> = bits(logits.of(segment_idx)).into_iter().take(part.n_right).collect();
            let rows = start..start + part.n_right;
            prop_assert!(got == wanted[part.idx][rows], "pass {pass_idx}, context {}", part.idx);
            if part.is_tentative {
                prop_assert_eq!(context.tentative_tokens(), part.tokens.len());
                if part.forks {
                    *context = engine.fork(context).unwrap();
                    prop_assert_eq!(context.tentative_tokens(), 0);
                } else if part.parks {
                    context.park().unwrap();
                    prop_assert!(context.is_parked());
                    prop_assert_eq!(context.held(), &sequences[part.idx][..held]);
                } else if part.n_kept > 0 || part.n_right > 0 {
                    context.commit(part.n_kept).unwrap();
                    prop_assert_eq!(context.held(), &sequences[part.idx][..held + part.n_kept]);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_left_of_tokens_that_are_taken_back(script in scripts()) {
        check(&script)?;
    }
}

#[test]
fn drafts_of_every_family_are_kept_in_part_across_sealed_pages_and_sliding_windows() {
    for family in FAMILIES {
        for (memory, format) in [
            (Memory::Floor, KvFormat::Exact),
            (Memory::Plenty, KvFormat::Exact),
            (Memory::Floor, KvFormat::Int8),
        ] {
            let mut passes = vec![vec![(0, Step::Append(120)), (1, Step::Append(250)), (2, Step::Append(3))]];
            for n_kept in [0, 1, 3, 7, 5, 2, 6, 4] {
                let draft = Step::Draft(7, 2, n_kept);
                passes.push(vec![(0, draft), (1, draft), (2, draft)]);
            }
            let script = Script { family, memory, format, passes };
            check(&script).unwrap_or_else(|error| panic!("{script:?}: {error}"));
        }
    }
}

#[test]
fn a_session_saved_after_a_draft_is_that_of_the_kept_tokens() {
    for name in ["qwen3", "llama-sliding", "nemotron_h-latent-q4", "qwen3_next"] {
        let (dir, vocab) = family(name);
        let ids = sequence(0, 300, vocab);
        let wanted = alone(name, KvFormat::Exact);
        let mut kv = KvPolicy::default();
        kv.is_paged = true;
        let mut engine = engine(&dir, Compute::Auto, Memory::Floor, kv, 2);
        let session = format!("draft-{name}-{}", std::process::id());
        let (mut context, mut logits) = (engine.new_context(), Logits::default());
        engine.pass(&mut [Segment::new(&mut context, &ids[..250])], &mut logits).unwrap();
        let draft: Vec<u32> = ids[250..253].iter().copied().chain([1, 2]).collect();
        engine.pass(&mut [Segment::tentative(&mut context, &draft)], &mut logits).unwrap();
        context.commit(2).unwrap();
        context.save_as::<(), ModelError>(&session, |_| Ok(())).unwrap();
        drop(context);
        // Any context can take it.
        let mut resumed = engine.new_context();
        let ((), _) = resumed.take_from::<(), ModelError>(&session, |_| Ok(())).unwrap();
        assert_eq!(resumed.held(), &ids[..252]);
        engine.pass(&mut [Segment::new(&mut resumed, &ids[252..253])], &mut logits).unwrap();
        assert!(bits(logits.of(0))[0] == wanted[0][252], "{name}");
    }
}

#[test]
fn a_draft_without_room_is_refused() {
    let (dir, vocab) = family("qwen3");
    let mut kv = KvPolicy::default();
    kv.is_paged = true;
    let mut engine = engine(&dir, Compute::Auto, Memory::Floor, kv, 1);
    let ids = sequence(0, 300, vocab);
    let (mut context, mut logits) = (engine.new_context(), Logits::default());
    engine.pass(&mut [Segment::new(&mut context, &ids[..250])], &mut logits).unwrap();
    assert_eq!(context.tentative_room(), 6, "up to the end of the page");
    let outcomes = engine.pass(&mut [Segment::tentative(&mut context, &ids[250..257])], &mut logits).unwrap();
    let [Err(ModelError::DraftTooLong { tokens: 7, room: 6 })] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    assert_eq!(context.held_tokens(), 250);
}

#[test]
#[should_panic(expected = "3 of 2 tentative tokens")]
fn keeping_more_tokens_than_were_drafted_is_a_bug() {
    let (dir, _) = family("qwen3");
    let mut engine = engine(&dir, Compute::Auto, Memory::Floor, KvPolicy::default(), 1);
    let (mut context, mut logits) = (engine.new_context(), Logits::default());
    engine.pass(&mut [Segment::tentative(&mut context, &[1, 2])], &mut logits).unwrap();
    let _ = context.commit(3);
}
