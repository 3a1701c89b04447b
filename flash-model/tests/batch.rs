//! Passes over several contexts: no bit of a context depends on its company.

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
use flash_model::{Compute, Context, KvFormat, KvPolicy, Logits, Segment};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokens::{bits, sequence};

/// One segment of a pass: the context, its number of new tokens, and how many logits are wanted of each hundred.
type Part = (usize, usize, usize);

/// A script of passes.
#[derive(Debug, Clone)]
struct Script {
    family: &'static str,
    memory: Memory,
    format: KvFormat,
    passes: Vec<Vec<Part>>,
    /// Context that starts over before a pass.
    restarts: Vec<(usize, usize)>,
}

fn scripts() -> impl Strategy<Value = Script> {
    let part =
        (0_usize..6, prop_oneof![6 => Just(1_usize), 2 => 2_usize..9, 2 => 9_usize..300], 0_usize..=100);
    let passes = prop::collection::vec(prop::collection::vec(part, 1..6), 1..8);
    let restarts = prop::collection::vec((0_usize..8, 0_usize..6), 0..3);
    let memory = prop::sample::select(vec![Memory::Floor, Memory::Plenty]);
    let formats = vec![KvFormat::Exact, KvFormat::Exact, KvFormat::F16, KvFormat::Int8, KvFormat::Int4];
    (prop::sample::select(FAMILIES.to_vec()), memory, prop::sample::select(formats), passes, restarts)
        .prop_map(|(family, memory, format, passes, restarts)| Script {
            family,
            memory,
            format,
            passes,
            restarts,
        })
}

/// Runs a script, and compares all logits with those of each context alone.
fn check(script: &Script) -> Result<(), TestCaseError> {
    let (dir, vocab) = family(script.family);
    let kv = KvPolicy::new(script.format);
    let mut engine = engine(&dir, Compute::Auto, script.memory, kv, 1 + CONTEXTS);
    let mut contexts: Vec<Context> = (0..CONTEXTS).map(|_| engine.new_context()).collect();
    let sequences: Vec<_> = (0..CONTEXTS).map(|idx| sequence(idx, TOKENS, vocab)).collect();
    let wanted = alone(script.family, script.format);
    let mut logits = Logits::default();
    for (pass_idx, parts) in script.passes.iter().enumerate() {
        for (_, restarted) in script.restarts.iter().filter(|(at, _)| *at == pass_idx) {
            // The memory of the old context is free for the new one.
            drop(contexts.remove(*restarted));
            contexts.insert(*restarted, engine.new_context());
        }
        let mut wants = Vec::new();
        let mut segments: Vec<Segment<'_>> = Vec::new();
        for (idx, context) in contexts.iter_mut().enumerate() {
            let Some((_, n, percent)) = parts.iter().find(|(of, ..)| *of == idx) else { continue };
            let start = context.held_tokens();
            let end = (start + n).min(TOKENS);
            if start == end {
                continue;
            }
            let n_logits = ((end - start) * percent).div_ceil(100);
            wants.push((idx, end - n_logits..end));
            segments.push(Segment { n_logits, ..Segment::new(context, &sequences[idx][start..end]) });
        }
        // Not in the order of creation.
        segments.reverse();
        wants.reverse();
        let outcomes = engine.pass(&mut segments, &mut logits).unwrap();
        prop_assert!(outcomes.iter().all(Result::is_ok) && outcomes.len() == wants.len());
        for (segment_idx, (idx, rows)) in wants.into_iter().enumerate() {
            let got = bits(logits.of(segment_idx));
            prop_assert!(got == wanted[idx][rows.clone()], "pass {pass_idx}, context {idx}, tokens {rows:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_bit_of_a_context_depends_on_its_company(script in scripts()) {
        check(&script)?;
    }
}

#[test]
fn a_pass_without_logits_is_complete_when_it_ends() {
    for format in [KvFormat::Exact, KvFormat::F16, KvFormat::Int8] {
        for family in FAMILIES {
            // Nobody waits for the logits of the first token, whose last layer may be computing still.
            let passes = vec![vec![(0, 1, 0)], vec![(0, 1, 100)], vec![(0, 7, 0)], vec![(0, 1, 100)]];
            let script = Script { family, memory: Memory::Floor, format, passes, restarts: Vec::new() };
            check(&script).unwrap_or_else(|error| panic!("{script:?}: {error}"));
        }
    }
}

#[test]
fn contexts_of_every_family_run_together_as_each_alone() {
    for family in FAMILIES {
        for (memory, format) in [(Memory::Floor, KvFormat::Exact), (Memory::Plenty, KvFormat::Int8)] {
            // Prompts of different lengths, tokens of all, and a prompt that joins them.
            let passes = vec![
                vec![(0, 3, 100), (1, 290, 1), (2, 1, 100), (3, 17, 50)],
                vec![(0, 1, 100), (1, 1, 100), (2, 1, 100), (3, 1, 100)],
                vec![(0, 1, 100), (1, 4, 100), (2, 1, 100), (3, 1, 0), (4, 140, 1)],
                (0..5).map(|idx| (idx, 1, 100)).collect(),
            ];
            let script = Script { family, memory, format, passes, restarts: vec![(2, 3)] };
            check(&script).unwrap_or_else(|error| panic!("{script:?}: {error}"));
        }
    }
}
