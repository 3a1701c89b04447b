//! Tests of an engine's internals.

mod soak;

use std::fs;
use std::path::{Path, PathBuf};

use flash_io::IoMode;

use super::{Engine, EngineOptions, Logits, Segment};
use crate::checkpoint::Checkpoint;
use crate::compute::Compute;
use crate::engine::sample::{SampleError, Sampler, SamplerConfig};
use crate::engine::{Model, Workload};
use crate::kv::{KvFormat, KvPolicy, LayerKv};
use crate::{ModelError, mlx};

const COMPUTES: &[Compute] =
    if cfg!(target_os = "linux") { &[Compute::Native, Compute::Mlx] } else { &[Compute::Mlx] };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(name)
}

/// Loads a model with the smallest budget, or with more than it can use.
fn engine(dir: &Path, compute: Compute, is_floor: bool) -> Engine {
    let workload = Workload::new(300, 400);
    let model = Model::open_on(Checkpoint::open(dir, IoMode::Pread).unwrap(), compute).unwrap();
    let budget_bytes = if is_floor { model.floor_bytes(&workload) } else { 1 << 40 };
    model.load(&EngineOptions::new(budget_bytes, workload)).unwrap()
}

fn ids(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 31 + 7) % 96).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn an_interrupt_at_any_check_leaves_the_cache_as_it_was() {
    // Each with the minimum number of checks for a prompt in three chunks: per embedding lookup, per layer, per
    // expert.
    for (name, checks_min) in
        [("biases", 3 + 2 * 3), ("qwen3_next-paired", 3 + 2 * (3 + 4)), ("gemma3-text", 3 + 4 * 3)]
    {
        for (&compute, is_floor) in COMPUTES.iter().flat_map(|compute| [(compute, true), (compute, false)]) {
            let (held, prompt) = (ids(5), ids(300));
            let mut undisturbed = engine(&fixture(name), compute, is_floor);
            undisturbed.forward(&held).unwrap();
            let wanted = undisturbed.forward(&prompt).unwrap();

            let mut engine = engine(&fixture(name), compute, is_floor);
            engine.forward(&held).unwrap();
            let mut checks = 0;
            let logits = loop {
                engine.model.interrupt.after(checks);
                match engine.forward(&prompt) {
                    Ok(logits) => break logits,
                    Err(ModelError::Interrupted) => assert_eq!(engine.held(), held, "{name} at {checks}"),
                    Err(other) => panic!("{name} at {checks}: {other:?}"),
                }
                checks += 1;
            };
            engine.model.interrupt.never();
            assert!(checks >= checks_min, "{name}: only {checks} checks");
            assert!(bits(&logits) == bits(&wanted), "{name}");
            assert!(
                bits(&engine.forward(&[3]).unwrap()) == bits(&undisturbed.forward(&[3]).unwrap()),
                "{name}"
            );
        }
    }
}

#[test]
fn losses_end_between_positions_when_they_are_interrupted() {
    let mut engine = engine(&fixture("biases"), COMPUTES[0], true);
    let text = ids(300);
    let wanted = engine.losses(&text).unwrap();
    engine.model.interrupt.after(1_000_000);
    engine.losses(&text).unwrap();
    let checks = 1_000_000 - engine.model.interrupt.never();
    engine.model.interrupt.after(checks - 1);
    assert!(matches!(engine.losses(&text), Err(ModelError::Interrupted)));
    // At least one check per run of positions, for one tile at least.
    engine.model.interrupt.after(checks - 299 / 16);
    assert!(matches!(engine.losses(&text), Err(ModelError::Interrupted)));
    engine.model.interrupt.never();
    assert_eq!(engine.losses(&text).unwrap(), wanted);
}

/// Returns the addresses of the key and value arrays of all layers that store them as arrays.
fn addresses(engine: &mut Engine) -> Vec<usize> {
    let arrays = engine.own().kv().unwrap().layers.iter().flat_map(|layer| match layer {
        LayerKv::Arrays { keys, values } => [Some(keys), values.as_ref()],
        _ => [None, None],
    });
    arrays.flatten().map(mlx::address).collect()
}

#[test]
fn appending_never_copies_the_cache_of_a_layer() {
    for name in ["biases", "gemma3-text", "gpt_oss", "deepseek_v3", "qwen3_next-paired"] {
        for is_floor in [true, false] {
            let mut engine = engine(&fixture(name), Compute::Mlx, is_floor);
            let before = addresses(&mut engine);
            assert!(!before.is_empty());
            engine.forward(&ids(300)).unwrap();
            assert_eq!(addresses(&mut engine), before, "{name}: behind a prompt in chunks");
            (0..3).for_each(|token| drop(engine.forward(&[token]).unwrap()));
            engine.model.interrupt.after(5);
            engine.forward(&ids(60)).unwrap_err();
            engine.model.interrupt.never();
            engine.forward(&ids(60)).unwrap();
            assert_eq!(addresses(&mut engine), before, "{name}: behind tokens and a pass that failed");
        }
    }
}

#[test]
fn weights_that_operations_may_write_into_leave_the_same_bits_each_time() {
    // Norm weights stored around zero: MLX may write the output of `weight + 1` into the slot's memory.
    for name in ["gemma3-text", "qwen3_5-trained"] {
        let mut pinned = engine(&fixture(name), Compute::Mlx, false);
        let mut streamed = engine(&fixture(name), Compute::Mlx, true);
        let wanted = pinned.forward(&ids(200)).unwrap();
        for _ in 0..3 {
            for engine in [&mut pinned, &mut streamed] {
                engine.truncate(0).unwrap();
                assert!(bits(&engine.forward(&ids(200)).unwrap()) == bits(&wanted), "{name}");
            }
        }
    }
}

/// Copies a model in f32, with `value` as the first element of a tensor.
fn broken(name: &str, tensor: &str, value: f32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    assert_eq!(header[tensor]["dtype"], "F32", "{tensor}");
    let start = 8 + header_len + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    dir
}

#[test]
fn logits_that_are_not_finite_give_no_token_and_no_loss() {
    for value in [f32::NAN, f32::INFINITY] {
        let dir = broken("biases", "model.norm.weight", value);
        for &compute in COMPUTES {
            let mut engine = engine(dir.path(), compute, true);
            let mut logits = engine.forward(&ids(5)).unwrap();
            for temperature in [0.0, 0.7] {
                let config = SamplerConfig { temperature, ..SamplerConfig::default() };
                let error = Sampler::new(config).unwrap().sample(&mut logits, &[]).unwrap_err();
                assert!(matches!(error, SampleError::BadLogit { .. }), "{error:?}");
            }
            let error = engine.losses(&ids(40)).unwrap_err();
            assert!(matches!(error, ModelError::LossNan { position: 1, token: 38 }), "{error:?}");
            assert_eq!(engine.held_tokens(), 0);
        }
    }
}

#[test]
fn a_router_score_that_is_not_finite_is_an_error() {
    let gate = "model.layers.1.block_sparse_moe.gate.weight";
    for value in [f32::NAN, f32::INFINITY] {
        let dir = broken("mixtral", gate, value);
        for &compute in COMPUTES {
            let mut engine = engine(dir.path(), compute, true);
            for prompt in [ids(1), ids(200)] {
                let error = engine.forward(&prompt).unwrap_err();
                assert!(
                    matches!(error, ModelError::RouterScore { layer_idx: 1, expert_idx: 0, .. }),
                    "{error:?}"
                );
                assert_eq!(engine.held_tokens(), 0);
            }
        }
    }
}

#[test]
fn a_loss_of_a_token_outside_of_the_vocabulary_is_an_error() {
    let mut engine = engine(&fixture("biases"), COMPUTES[0], false);
    let error = engine.losses(&[1, 2, 5000]).unwrap_err();
    assert!(matches!(error, ModelError::TokenOutOfRange { token: 5000, .. }), "{error:?}");
}

#[test]
fn a_context_beyond_the_trained_length_runs() {
    let workload = Workload::new(600, 700);
    for &compute in COMPUTES {
        let checkpoint = Checkpoint::open(&fixture("biases"), IoMode::Pread).unwrap();
        let model = Model::open_on(checkpoint, compute).unwrap();
        assert_eq!(model.max_context_tokens(), Some(512));
        let mut engine = model.load(&EngineOptions::new(1 << 30, workload)).unwrap();
        assert!(engine.context_tokens() >= 700);
        assert!(engine.forward(&ids(600)).unwrap().iter().all(|logit| logit.is_finite()));
        assert_eq!(engine.held_tokens(), 600);
    }
}

#[test]
fn an_unlimited_context_has_a_floor() {
    for &compute in COMPUTES {
        let checkpoint = Checkpoint::open(&fixture("biases"), IoMode::Pread).unwrap();
        let model = Model::open_on(checkpoint, compute).unwrap();
        let workload = Workload::new(10, usize::MAX);
        let floor_bytes = model.floor_bytes(&workload);
        assert!(floor_bytes > model.floor_bytes(&Workload::new(10, 1000)));
        let error = model.load(&EngineOptions::new(floor_bytes - 1, workload)).unwrap_err();
        assert!(matches!(error, ModelError::BelowFloor { .. }), "{error:?}");
    }
}

/// Opens a model for a context that only grows, and for one that keeps all tokens.
#[cfg(target_os = "linux")]
fn growing_and_whole(name: &str, workload: Workload) -> [(Model, Workload); 2] {
    [true, false].map(|is_append_only| {
        let checkpoint = Checkpoint::open(&fixture(name), IoMode::Pread).unwrap();
        let mut workload = workload;
        workload.kv.is_append_only = is_append_only;
        (Model::open_on(checkpoint, Compute::Native).unwrap(), workload)
    })
}

#[test]
#[cfg(target_os = "linux")]
fn memory_for_windows_alone_changes_no_bit() {
    for name in ["gemma3-text", "llama-sliding", "gpt_oss-window"] {
        let [growing, whole] = growing_and_whole(name, Workload::new(300, 1200))
            .map(|(model, workload)| model.load(&EngineOptions::new(1 << 40, workload)).unwrap());
        let (mut growing, mut whole) = (growing, whole);
        assert!(!growing.contexts.plan.has_full_memory() && whole.contexts.plan.has_full_memory(), "{name}");
        // Prompts of several chunks, at any place in a page, and single tokens between them.
        for n in [1, 130, 1, 1, 300, 127, 1, 129, 256, 3] {
            assert!(
                bits(&growing.forward(&ids(n)).unwrap()) == bits(&whole.forward(&ids(n)).unwrap()),
                "{name}: {n}"
            );
        }
        // Truncates by a few tokens, which stay within the windows, then beyond the windows.
        let held = whole.held_tokens();
        assert_eq!(growing.truncate(held - 40).unwrap(), held - 40, "{name}");
        whole.truncate(held - 40).unwrap();
        assert!(bits(&growing.forward(&ids(9)).unwrap()) == bits(&whole.forward(&ids(9)).unwrap()), "{name}");
        assert_eq!(growing.truncate(200).unwrap(), 0, "{name}");
        whole.truncate(0).unwrap();
        assert!(
            bits(&growing.forward(&ids(200)).unwrap()) == bits(&whole.forward(&ids(200)).unwrap()),
            "{name}"
        );
        // A pass that fails after it has overwritten held tokens empties the cache.
        growing.model.interrupt.after(12);
        assert!(matches!(growing.forward(&ids(500)), Err(ModelError::Interrupted)));
        growing.model.interrupt.never();
        assert_eq!(growing.held_tokens(), 0, "{name}");
        assert!(
            bits(&growing.forward(&ids(200)).unwrap())
                == bits(&{
                    whole.truncate(0).unwrap();
                    whole.forward(&ids(200)).unwrap()
                })
        );
        assert!(matches!(
            growing.save_as::<(), ModelError>("kept", |_| Ok(())),
            Err(ModelError::Rotates { .. })
        ));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_floor_of_a_context_that_only_grows_has_windows_alone() {
    // Three of four layers see 20 tokens: of the 12 pages of a context, two or three are kept.
    let floors = growing_and_whole("gemma3-text", Workload::new(300, 1500)).map(|(model, workload)| {
        let kv_bytes = model.needs(&workload, 1 << 40).kv_bytes;
        let engine = model.load(&EngineOptions::new(1 << 40, workload)).unwrap();
        (kv_bytes, engine.stats().floor_bytes)
    });
    let [(growing_kv, growing_floor), (whole_kv, whole_floor)] = floors;
    assert!(growing_kv < whole_kv / 2, "{growing_kv} B of {whole_kv}");
    assert!(growing_floor < whole_floor, "{growing_floor} B of {whole_floor}");
}

#[test]
fn contexts_that_come_and_go_leave_no_byte_and_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    for (name, format) in [
        ("biases", KvFormat::Exact),
        ("biases", KvFormat::Int8),
        ("gemma3-text", KvFormat::F16),
        ("qwen3_next-paired", KvFormat::Exact),
        ("mixtral", KvFormat::Int4),
    ] {
        let workload = Workload::new(300, 400).with_kv(KvPolicy::new(format)).with_contexts(4);
        let model = Model::open(Checkpoint::open(&fixture(name), IoMode::Pread).unwrap()).unwrap();
        let mut options = EngineOptions::new(model.floor_bytes(&workload), workload);
        options.kv_dir = dir.path().to_owned();
        let mut engine = model.load(&options).unwrap();
        engine.forward(&ids(300)).unwrap();
        engine.context = None;
        let used_bytes = engine.budget.used_bytes();
        let (mut contexts, mut logits, mut rng) =
            (Vec::new(), Logits::default(), fastrand::Rng::with_seed(7));
        let mut n_interrupted = 0;
        for _ in 0..300 {
            if contexts.len() < 4 && rng.bool() {
                contexts.push(engine.new_context());
            }
            if !contexts.is_empty() && rng.u8(..4) == 0 {
                drop(contexts.swap_remove(rng.usize(..contexts.len())));
            }
            if !contexts.is_empty() && rng.u8(..4) == 0 {
                let idx = rng.usize(..contexts.len());
                contexts[idx].park().unwrap();
            }
            let lens: Vec<usize> = contexts.iter().map(|_| [1, 1, 1, 7, 150][rng.usize(..5)]).collect();
            let tokens = ids(150);
            let mut segments = Vec::new();
            for (context, len) in contexts.iter_mut().zip(lens) {
                if context.held_tokens() + len > context.max_tokens() {
                    context.truncate(0).unwrap();
                }
                segments.push(Segment::new(context, &tokens[..len]));
            }
            if rng.u8(..3) == 0 {
                engine.model.interrupt.after(rng.usize(..20));
            }
            match engine.pass(&mut segments, &mut logits) {
                Ok(outcomes) => assert!(outcomes.iter().all(Result::is_ok), "{name}: {outcomes:?}"),
                Err(ModelError::Interrupted) => n_interrupted += 1,
                Err(error) => panic!("{name}: {error}"),
            }
            engine.model.interrupt.never();
        }
        assert!(n_interrupted > 10, "{name}: only {n_interrupted} passes were interrupted");
        contexts.clear();
        assert_eq!(engine.budget.used_bytes(), used_bytes, "{name}");
        // One too many fails alone, and takes nothing.
        let refused = loop {
            let mut context = engine.new_context();
            let mut outcomes = engine.pass(&mut [Segment::new(&mut context, &[1])], &mut logits).unwrap();
            match outcomes.remove(0) {
                Ok(()) => contexts.push(context),
                Err(error) => break error,
            }
        };
        assert!(contexts.len() >= 4, "{name}: {refused}");
        assert!(matches!(refused, ModelError::Kv(_) | ModelError::Io(_)), "{name}: {refused:?}");
        // Where another one is parked, there is room.
        contexts[0].park().unwrap();
        let mut context = engine.new_context();
        engine.pass(&mut [Segment::new(&mut context, &[1])], &mut logits).unwrap().remove(0).unwrap();
        drop(context);
        contexts.clear();
        assert_eq!(engine.budget.used_bytes(), used_bytes, "{name}");
        drop(engine);
        // The next run finds no pages to remove.
        let runs = fs::read_dir(dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(runs.count(), 0, "{name}");
    }
}
