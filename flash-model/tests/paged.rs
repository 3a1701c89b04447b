//! A paged KV cache changes no bit except as its format requires, whatever the memory, the split of the prompt into
//! passes, and the I/O mode.

#[path = "streaming/tiny.rs"]
#[expect(dead_code, reason = "other tests draw models of any form")]
mod tiny;

use std::path::{Path, PathBuf};

use flash_io::IoMode;
use flash_model::{
    Checkpoint, Compute, Engine, EngineOptions, KvFormat, KvPolicy, Model, ModelError, WhenFull, Workload,
};
use proptest::prelude::*;
use tiny::{Format, Tiny};

/// A limit above all contexts of these tests, so that the cache is paged and evicts nothing.
const ALL_TOKENS: Option<usize> = Some(1 << 20);
const CONTEXT_TOKENS: usize = 2048;
const TINY: Tiny = Tiny {
    layers: 5,
    heads: 4,
    kv_heads: 2,
    vocab: 90,
    tied: true,
    biases: false,
    experts: None,
    format: Format::Affine(4),
    seed: 11,
};

/// A configuration of the cache.
#[derive(Debug, Clone, Copy)]
struct Way {
    compute: Compute,
    kv: KvPolicy,
    /// Fraction of the model and the cache that the budget has room for beyond the minimum.
    room: f64,
    io: IoMode,
}

impl Way {
    fn of(format: KvFormat) -> Self {
        let mut kv = KvPolicy::new(format);
        kv.max_tokens = ALL_TOKENS;
        Self { compute: Compute::Auto, kv, room: 4.0, io: IoMode::Pread }
    }

    fn open(self, dir: &Path) -> Engine {
        let model = Model::open_on(Checkpoint::open(dir, self.io).unwrap(), self.compute).unwrap();
        let workload = Workload::new(CONTEXT_TOKENS, CONTEXT_TOKENS).with_kv(self.kv);
        let all_bytes = model.model_bytes() + model.kv_token_bytes() * CONTEXT_TOKENS as u64;
        let budget_bytes = model.floor_bytes(&workload) + (self.room * all_bytes as f64) as u64;
        model.load(&EngineOptions::new(budget_bytes, workload)).unwrap()
    }
}

fn written(tiny: &Tiny) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny.write(dir.path());
    dir
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i + 31 * i + 7) % TINY.vocab) as u32).collect()
}

/// Returns the bits of the logits after each piece.
fn bits(engine: &mut Engine, pieces: &[&[u32]]) -> Vec<Vec<u32>> {
    let pieces = pieces.iter().map(|piece| engine.forward(piece).unwrap());
    pieces.map(|logits| logits.iter().map(|logit| logit.to_bits()).collect()).collect()
}

/// Returns the bits of the logits after the last token.
fn last(engine: &mut Engine, pieces: &[&[u32]]) -> Vec<u32> {
    bits(engine, pieces).pop().unwrap()
}

#[test]
fn pages_of_full_precision_give_the_bits_of_a_cache_in_one_piece() {
    let dir = written(&TINY);
    let tokens = tokens(700);
    let (prompt, rest) = tokens.split_at(640);
    let pieces: Vec<&[u32]> = std::iter::once(prompt).chain(rest.chunks(1)).collect();
    let plain = Way { kv: KvPolicy::default(), ..Way::of(KvFormat::Exact) };
    let wanted = bits(&mut plain.open(dir.path()), &pieces);
    for room in [0.0, 0.1, 4.0] {
        for io in [IoMode::Pread, IoMode::Auto, IoMode::Mmap] {
            let mut engine = Way { room, io, ..Way::of(KvFormat::Exact) }.open(dir.path());
            assert!(bits(&mut engine, &pieces) == wanted, "room {room}, {io}");
            let written_bytes = engine.stats().kv_written_bytes;
            assert!(
                if room == 0.0 { written_bytes > 0 } else { room < 1.0 || written_bytes == 0 },
                "room {room}"
            );
        }
    }
}

/// Committed models: three with sliding windows (of 24 tokens, of 20, and of 20 with sinks), and one that stores its
/// values in its keys.
const COMMITTED: [&str; 4] = ["llama-sliding", "gemma3-text", "gpt_oss", "deepseek_v3"];

fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(name)
}

#[test]
fn pages_of_full_precision_give_the_bits_of_a_cache_in_one_piece_where_layers_slide_or_are_latent() {
    let tokens = tokens(420);
    let (prompt, rest) = tokens.split_at(370);
    let pieces: Vec<&[u32]> = std::iter::once(prompt).chain(rest.chunks(1)).collect();
    for name in COMMITTED {
        let plain = Way { kv: KvPolicy::default(), ..Way::of(KvFormat::Exact) };
        let wanted = bits(&mut plain.open(&committed(name)), &pieces);
        for room in [0.0, 4.0] {
            let mut engine = Way { room, ..Way::of(KvFormat::Exact) }.open(&committed(name));
            assert!(bits(&mut engine, &pieces) == wanted, "{name}: room {room}");
            assert_eq!(engine.stats().kv_written_bytes > 0, room == 0.0);
        }
    }
}

#[test]
fn mlx_sees_the_same_windows_and_latent_vectors_through_pages_from_memory_and_disk() {
    let tokens = tokens(400);
    for name in COMMITTED {
        let mlx = Way { compute: Compute::Mlx, ..Way::of(KvFormat::Exact) };
        let plain = Way { kv: KvPolicy::default(), ..mlx };
        let wanted = plain.open(&committed(name)).forward(&tokens).unwrap();
        let paged = mlx.open(&committed(name)).forward(&tokens).unwrap();
        let greatest = wanted.iter().fold(0.0_f32, |max, logit| max.max(logit.abs()));
        let worst = wanted.iter().zip(&paged).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(worst < 1e-5 * greatest, "{name}: {worst} of {greatest}");
        let (head, rest) = tokens.split_at(390);
        let pieces: Vec<&[u32]> = std::iter::once(head).chain(rest.chunks(1)).collect();
        let held = bits(&mut mlx.open(&committed(name)), &pieces);
        let mut read = Way { room: 0.0, ..mlx }.open(&committed(name));
        assert!(bits(&mut read, &pieces) == held, "{name}");
    }
}

#[test]
fn latent_vectors_are_kept_once_and_give_the_same_bits_from_every_place() {
    let dir = committed("deepseek_v3");
    let tokens = tokens(420);
    let (prompt, rest) = tokens.split_at(400);
    let pieces: Vec<&[u32]> = std::iter::once(prompt).chain(rest.chunks(1)).collect();
    let model = Model::open(Checkpoint::open(&dir, IoMode::Pread).unwrap()).unwrap();
    assert_eq!(
        model.kv_token_bytes(),
        3 * (8 + 16) * 4,
        "of three layers what is rotated, and a latent vector"
    );
    for compute in [Compute::Auto, Compute::Mlx] {
        for format in [KvFormat::F16, KvFormat::Int8, KvFormat::Int4] {
            let way = Way { compute, ..Way::of(format) };
            let wanted = last(&mut way.open(&dir), &pieces);
            let mut read = Way { room: 0.0, ..way }.open(&dir);
            assert!(last(&mut read, &pieces) == wanted, "{compute:?} {format:?}");
            assert!(read.stats().kv_written_bytes > 0);
            if compute == Compute::Auto && cfg!(target_os = "linux") {
                assert!(last(&mut way.open(&dir), &[&tokens]) == wanted, "{format:?} at once");
            }
        }
    }
}

#[test]
fn pages_that_have_left_the_window_of_a_layer_are_not_read() {
    let tokens = tokens(510);
    let read_bytes = |dir: &Path| {
        let way = Way { room: 0.0, ..Way::of(KvFormat::Exact) };
        let mut engine = way.open(dir);
        engine.forward(&tokens[..500]).unwrap();
        let before = engine.stats().kv_read_bytes;
        for token in &tokens[500..] {
            engine.forward(&[*token]).unwrap();
        }
        engine.stats().kv_read_bytes - before
    };
    let sliding = committed("llama-sliding");
    let full = tempfile::tempdir().unwrap();
    std::fs::copy(sliding.join("model.safetensors"), full.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(sliding.join("config.json")).unwrap();
    let config = config.replace("sliding_attention", "full_attention");
    std::fs::write(full.path().join("config.json"), config).unwrap();
    let (sliding, full) = (read_bytes(&sliding), read_bytes(full.path()));
    // One layer of three has full attention.
    assert!(sliding > 0 && 2 * sliding < full, "{sliding} B of {full}");
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(1_usize), 1..300_usize, Just(128)], 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn bits_follow_from_the_tokens_and_the_format_alone(
        format in prop_oneof![Just(KvFormat::F16), Just(KvFormat::Int8), Just(KvFormat::Int4)],
        window_tokens in prop_oneof![Just(0_usize), Just(128), Just(200)],
        max_tokens in prop_oneof![Just(ALL_TOKENS), Just(Some(600))],
        compute in prop_oneof![Just(Compute::Auto), Just(Compute::Auto), Just(Compute::Mlx)],
        room in prop_oneof![Just(0.0), 0.0..1.0_f64],
        io in prop_oneof![Just(IoMode::Auto), Just(IoMode::Pread), Just(IoMode::Direct)],
        lengths in pieces(),
    ) {
        let dir = written(&TINY);
        let n: usize = lengths.iter().sum::<usize>().min(1200) + 1;
        let tokens = tokens(n);
        let mut kv = Way::of(format).kv;
        (kv.window_tokens, kv.max_tokens) = (window_tokens, max_tokens);
        let way = Way { kv, compute, ..Way::of(format) };
        // In one pass, with everything in memory.
        let wanted = last(&mut way.open(dir.path()), &[&tokens]);
        let mut rest = &tokens[..];
        let mut pieces = Vec::new();
        for length in lengths {
            let (piece, behind) = rest.split_at(length.min(rest.len()));
            rest = behind;
            pieces.push(piece);
        }
        pieces.push(rest);
        pieces.retain(|piece| !piece.is_empty());
        let mut engine = Way { room, io, ..way }.open(dir.path());
        prop_assert!(last(&mut engine, &pieces) == wanted);
        if room == 0.0 && n > 500 && max_tokens == ALL_TOKENS {
            prop_assert!(engine.stats().kv_written_bytes > 0, "pages went to the disk");
        }
        // Again in the same engine, over the pages of the first run.
        prop_assert_eq!(engine.truncate(0).unwrap(), 0);
        prop_assert!(last(&mut engine, &[&tokens]) == wanted);
    }
}

#[test]
fn quantised_pages_stay_close_and_fewer_bits_are_further() {
    let dir = written(&TINY);
    let tokens = tokens(900);
    let logits = |format| Way::of(format).open(dir.path()).forward(&tokens).unwrap();
    let exact = logits(KvFormat::Exact);
    let greatest = exact.iter().fold(0.0_f32, |max, logit| max.max(logit.abs()));
    let error = |format| {
        let differences = logits(format).into_iter().zip(&exact).map(|(a, b)| (a - b).abs());
        differences.fold(0.0_f32, f32::max) / greatest
    };
    let [half, eight, four] = [KvFormat::F16, KvFormat::Int8, KvFormat::Int4].map(error);
    assert!(half < eight && eight < four, "{half} {eight} {four}");
    assert!(half < 1e-3 && eight < 1e-2 && four < 0.2, "{half} {eight} {four}");
}

#[test]
fn sinks_count_once_however_many_pages_there_are() {
    let (dir, tokens) = (committed("gpt_oss"), tokens(500));
    for compute in [Compute::Auto, Compute::Mlx] {
        let logits =
            |kv: KvPolicy| Way { kv, compute, ..Way::of(kv.format) }.open(&dir).forward(&tokens).unwrap();
        let wanted = logits(KvPolicy::default());
        let greatest = wanted.iter().fold(0.0_f32, |max, logit| max.max(logit.abs()));
        for (format, allowed) in [(KvFormat::Exact, 1e-5), (KvFormat::F16, 1e-2), (KvFormat::Int8, 1e-1)] {
            let differences = logits(Way::of(format).kv).into_iter().zip(&wanted).map(|(a, b)| (a - b).abs());
            let worst = differences.fold(0.0_f32, f32::max);
            assert!(worst < allowed * greatest, "{compute:?}, {format:?}: {worst} of {greatest}");
        }
    }
}

#[test]
fn a_rotating_cache_sees_the_first_and_the_last_tokens_with_the_same_bits_from_memory_and_disk() {
    let dir = written(&TINY);
    let mut kv = Way::of(KvFormat::Int8).kv;
    (kv.max_tokens, kv.keep_tokens) = (Some(1408), 100);
    let tokens = tokens(2000);
    let mut wanted = None;
    for room in [0.0, 4.0] {
        let way = Way { kv, room, ..Way::of(KvFormat::Int8) };
        let mut engine = way.open(dir.path());
        let (prompt, rest) = tokens.split_at(1000);
        let pieces = [prompt, &rest[..500], &rest[500..999], &rest[999..]];
        let got = last(&mut engine, &pieces);
        assert_eq!(engine.held_tokens(), 2000);
        assert_eq!(engine.stats().kv_written_bytes > 0, room == 0.0);
        assert!(*wanted.get_or_insert_with(|| got.clone()) == got, "room {room}");
    }
    // Without a limit, other tokens are attended to.
    let all = Way::of(KvFormat::Int8);
    assert!(last(&mut all.open(dir.path()), &[&tokens]) != wanted.unwrap());
}

#[test]
fn a_context_ends_where_its_pages_are_full_unless_the_oldest_make_room() {
    let dir = written(&TINY);
    // Two pages of five layers.
    let max_bytes = Some(2 * 5 * 16_384);
    let mut kv = Way::of(KvFormat::Int8).kv;
    (kv.max_tokens, kv.max_bytes, kv.keep_tokens) = (None, max_bytes, 0);
    let mut engine = Way { kv, ..Way::of(KvFormat::Int8) }.open(dir.path());
    assert_eq!(engine.context_tokens(), 128 + 3 * 128, "a window, two pages, and one that is not full");
    engine.forward(&tokens(512)).unwrap();
    assert!(matches!(engine.forward(&[1]), Err(ModelError::PromptTooLong { context_tokens: 512, .. })));
    kv.when_full = WhenFull::EvictOldest;
    let mut engine = Way { kv, ..Way::of(KvFormat::Int8) }.open(dir.path());
    engine.forward(&tokens(1000)).unwrap();
}

#[test]
fn rewinding_within_the_window_goes_on_with_the_same_bits_and_beyond_begins_anew() {
    let dir = written(&TINY);
    let tokens = tokens(600);
    for room in [0.0, 4.0] {
        let way = Way { room, ..Way::of(KvFormat::Int8) };
        let mut engine = way.open(dir.path());
        engine.forward(&tokens).unwrap();
        let wanted = last(&mut way.open(dir.path()), &[&tokens[..590], &[5, 6, 7]]);
        assert_eq!(engine.truncate(590).unwrap(), 590);
        assert!(last(&mut engine, &[&[5, 6, 7]]) == wanted);
        // The page at 300 has been sealed, so the exact bits after it are lost.
        assert_eq!(engine.truncate(300).unwrap(), 0);
        let wanted = last(&mut way.open(dir.path()), &[&tokens[..300]]);
        assert_eq!(engine.reuse(&tokens[..300]).unwrap(), 0);
        assert!(last(&mut engine, &[&tokens[..300]]) == wanted);
        assert_eq!(engine.reuse(&tokens[..310]).unwrap(), 300);
        assert_eq!(engine.reuse(&tokens[..300]).unwrap(), 299, "one token has to pass");
    }
}

#[test]
fn an_interrupted_pass_leaves_a_cache_that_goes_on() {
    let dir = written(&TINY);
    let tokens = tokens(700);
    let way = Way { room: 0.0, ..Way::of(KvFormat::Int8) };
    let mut engine = way.open(dir.path());
    engine.forward(&tokens[..400]).unwrap();
    engine.interrupt().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(engine.forward(&tokens[400..]), Err(ModelError::Interrupted)));
    engine.interrupt().store(false, std::sync::atomic::Ordering::Relaxed);
    let held = engine.held_tokens();
    assert!(held == 400 || held == 0, "{held}");
    let wanted = last(&mut way.open(dir.path()), &[&tokens]);
    assert!(last(&mut engine, &[&tokens[held..]]) == wanted);
}

/// Sets every element of an f16 tensor in `dir` to the largest finite value.
fn enlarge(dir: &Path, tensor: &str) {
    let shards = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    for path in shards.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")) {
        let mut bytes = std::fs::read(&path).unwrap();
        let header_bytes = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
        let Some(offsets) = header.get(tensor).map(|tensor| tensor["data_offsets"].clone()) else { continue };
        let [start, end] = [0, 1].map(|at| 8 + header_bytes + offsets[at].as_u64().unwrap() as usize);
        bytes[start..end].as_chunks_mut().0.fill(0x7bff_u16.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        return;
    }
    panic!("no {tensor}");
}

#[test]
fn a_value_too_great_for_16_bits_ends_the_generation_with_its_layer_and_place() {
    let dir = written(&TINY);
    enlarge(dir.path(), "model.layers.3.self_attn.v_proj.scales");
    for compute in [Compute::Auto, Compute::Mlx] {
        for format in [KvFormat::F16, KvFormat::Int8, KvFormat::Int4] {
            let mut engine = Way { compute, ..Way::of(format) }.open(dir.path());
            match engine.forward(&tokens(20)) {
                Err(ModelError::KvRange { layer_idx: 3, position: 0, .. }) => {}
                other => panic!("{format:?} {compute:?}: {other:?}"),
            }
        }
        // Full precision stores the values as computed.
        let mut engine = Way { compute, ..Way::of(KvFormat::Exact) }.open(dir.path());
        engine.forward(&tokens(20)).unwrap();
    }
}
