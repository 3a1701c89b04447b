//! Passes over several contexts: no bit of a context depends on its company.

#[path = "common/family.rs"]
mod family;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use flash_io::IoMode;
use flash_model::{
    Checkpoint, Compute, Context, Engine, EngineOptions, KvFormat, KvPolicy, Logits, Model, Segment, Workload,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use family::family;

/// A model of each family and kind of layer.
const FAMILIES: [&str; 15] = [
    "llama-sliding",
    "qwen2",
    "qwen3",
    "smollm3",
    "phi3",
    "gemma3-text-q4",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe-q4",
    "gpt_oss",
    "deepseek_v3",
    "nemotron_h-latent-q4",
    "qwen3_5",
    "qwen3_5_moe-q4",
    "qwen3_next",
];

/// Maximum tokens of a context.
const CONTEXT_TOKENS: usize = 384;

/// Contexts of a script. The engine's own is not one of them.
const CONTEXTS: usize = 6;

/// Tokens of a context that are compared: enough for pages to be sealed.
const TOKENS: usize = 330;

/// The budget of an engine.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// The smallest that works: weights and pages are streamed.
    Floor,
    /// More than can be used.
    Plenty,
}

fn engine(dir: &Path, compute: Compute, memory: Memory, kv: KvPolicy, n_contexts: usize) -> Engine {
    let workload = Workload::new(CONTEXT_TOKENS, CONTEXT_TOKENS).with_kv(kv).with_contexts(n_contexts);
    let model = Model::open_on(Checkpoint::open(dir, IoMode::Pread).unwrap(), compute).unwrap();
    let budget_bytes = match memory {
        Memory::Floor => model.floor_bytes(&workload),
        Memory::Plenty => 1 << 40,
    };
    let mut options = EngineOptions::new(budget_bytes, workload);
    options.kv_dir = std::env::temp_dir().join("flash-test-batch");
    model.load(&options).unwrap()
}

/// Returns the tokens of the context `idx`.
fn sequence(idx: usize, len: usize, vocab: usize) -> Vec<u32> {
    (0..len).map(|at| ((at * at * 7 + at * (31 + idx) + idx * 101 + 5) % vocab) as u32).collect()
}

fn bits<'a>(rows: impl IntoIterator<Item = &'a [f32]>) -> Vec<Vec<u32>> {
    rows.into_iter().map(|row| row.iter().map(|logit| logit.to_bits()).collect()).collect()
}

/// The bits of the logits of each token.
type Rows = Vec<Vec<u32>>;

/// Returns the logits of each token of each context, alone in an engine and token by token.
fn alone(name: &'static str, format: KvFormat) -> Arc<Vec<Rows>> {
    type ByModel = HashMap<(&'static str, KvFormat), Arc<Vec<Rows>>>;
    static COMPUTED: LazyLock<Mutex<ByModel>> = LazyLock::new(Mutex::default);
    let mut computed = COMPUTED.lock().unwrap();
    let compute = || {
        let (dir, vocab) = family(name);
        let mut engine = engine(&dir, Compute::Auto, Memory::Plenty, KvPolicy::new(format), 1);
        let context = |idx: usize| {
            engine.truncate(0).unwrap();
            let logits =
                sequence(idx, TOKENS, vocab).into_iter().map(|token| engine.forward(&[token]).unwrap());
            logits.flat_map(|logits| bits([logits.as_slice()])).collect()
        };
        Arc::new((0..CONTEXTS).map(context).collect())
    };
    Arc::clone(computed.entry((name, format)).or_insert_with(compute))
}

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
    let mut contexts: Vec<Context> = (0..CONTEXTS).map(|_| engine.new_context().unwrap()).collect();
    let sequences: Vec<_> = (0..CONTEXTS).map(|idx| sequence(idx, TOKENS, vocab)).collect();
    let wanted = alone(script.family, script.format);
    let mut logits = Logits::default();
    for (pass_idx, parts) in script.passes.iter().enumerate() {
        for (_, restarted) in script.restarts.iter().filter(|(at, _)| *at == pass_idx) {
            // The memory of the old context is free for the new one.
            drop(contexts.remove(*restarted));
            contexts.insert(*restarted, engine.new_context().unwrap());
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
            segments.push(Segment { context, tokens: &sequences[idx][start..end], n_logits });
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

#[cfg(target_os = "linux")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_bit_of_a_context_depends_on_its_company(script in scripts()) {
        check(&script)?;
    }
}

#[test]
#[cfg(target_os = "linux")]
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

#[test]
fn contexts_with_operations_of_mlx_compute_about_the_same_together_as_alone() {
    for name in FAMILIES {
        let (dir, vocab) = family(name);
        let mut engine = engine(&dir, Compute::Mlx, Memory::Plenty, KvPolicy::default(), 3);
        let sequences: Vec<_> = (0..3).map(|idx| sequence(idx, 20, vocab)).collect();
        let wanted: Vec<Vec<f32>> = sequences
            .iter()
            .map(|ids| {
                engine.truncate(0).unwrap();
                engine.forward(ids).unwrap()
            })
            .collect();
        let mut contexts: Vec<Context> = (0..2).map(|_| engine.new_context().unwrap()).collect();
        let mut logits = Logits::default();
        for rows in [0..7, 7..19, 19..20] {
            let mut segments: Vec<Segment<'_>> = contexts
                .iter_mut()
                .zip(&sequences)
                .map(|(context, ids)| Segment::new(context, &ids[rows.clone()]))
                .collect();
            engine.pass(&mut segments, &mut logits).unwrap();
        }
        for (idx, wanted) in wanted.iter().enumerate().take(2) {
            let got = logits.of(idx).next().unwrap();
            let largest = wanted.iter().fold(0.0_f32, |max, logit| max.max(logit.abs()));
            let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-3 * largest;
            assert!(got.iter().zip(wanted).all(is_close), "{name}");
        }
    }
}

#[test]
fn a_context_with_no_room_or_a_token_out_of_range_is_refused_before_anything_is_computed() {
    let (dir, vocab) = family("qwen3");
    let mut engine = engine(&dir, Compute::Auto, Memory::Floor, KvPolicy::default(), 2);
    let mut context = engine.new_context().unwrap();
    let mut logits = Logits::default();
    let ids = sequence(0, context.max_tokens() + 1, vocab);
    for (tokens, text) in [(ids.as_slice(), "tokens"), (&[vocab as u32], "vocabulary"), (&[], "empty")] {
        let error = engine.pass(&mut [Segment { context: &mut context, tokens, n_logits: 0 }], &mut logits);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert_eq!(context.held_tokens(), 0);
    }
    assert!(engine.pass(&mut [], &mut logits).unwrap().is_empty());
}

#[test]
#[should_panic(expected = "a context of this engine")]
fn a_context_of_another_engine_is_a_bug() {
    let (dir, _) = family("qwen3");
    let open = || engine(&dir, Compute::Auto, Memory::Floor, KvPolicy::default(), 2);
    let (mut engine, other) = (open(), open());
    let mut context = other.new_context().unwrap();
    let _ = engine.pass(&mut [Segment::new(&mut context, &[1])], &mut Logits::default());
}
