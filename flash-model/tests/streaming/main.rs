//! Streaming changes no bit: whatever the budget, the I/O mode and the faults, logits and losses equal those of the
//! model that is fully in memory.

mod families;
#[path = "../common/family.rs"]
mod family;
mod packed;
mod tiny;

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flash_io::faults::{Fault, FaultyStorage, When};
use flash_io::{IoError, IoMode, ReaderConfig};
use flash_model::{Checkpoint, Compute, Engine, EngineOptions, Model, ModelError, ModelOptions, Workload};
use proptest::prelude::*;
use tiny::{Format, Tiny, tiny};

/// A configuration to run a model in.
#[derive(Debug, Clone)]
struct Way {
    compute: Compute,
    /// Fraction of the streamable weights that the budget has room for beyond the minimum.
    pinned: f64,
    io: IoMode,
    threads: usize,
    chunk_bytes: usize,
    prefetch: bool,
    faults: Option<(Fault, When)>,
    /// Largest number of rows in a tile, if layers are cut into tiles.
    tile_rows: Option<u64>,
}

impl Way {
    const RESIDENT: Self = Self {
        compute: Compute::Auto,
        pinned: 2.0,
        io: IoMode::Pread,
        threads: 1,
        chunk_bytes: 1 << 20,
        prefetch: true,
        faults: None,
        tile_rows: None,
    };

    fn open(&self, dir: &Path) -> Result<Engine, ModelError> {
        let mut checkpoint = Checkpoint::open(dir, self.io)?;
        if let Some((fault, when)) = self.faults {
            checkpoint =
                checkpoint.map_storage(|_, storage| Arc::new(FaultyStorage::new(storage, fault, when)));
        }
        let tile_rows = self.tile_rows.and_then(NonZeroU64::new);
        let model =
            Model::open_on(checkpoint, ModelOptions { tile_rows, tile_bytes_min: 0, ..self.compute.into() })?;
        let workload = Workload::new(300, 400).with_prefetch(self.prefetch);
        let budget_bytes =
            model.floor_bytes(&workload) + (self.pinned * 2.0 * model.model_bytes() as f64) as u64;
        let usual = ReaderConfig::default().max_retries;
        let reader = ReaderConfig {
            depth: self.threads,
            chunk_bytes: self.chunk_bytes,
            max_retries: match self.faults {
                // Short reads make progress, so none exhausts its retries.
                None | Some((Fault::Short, _)) => usual,
                // Enough retries that no read fails by chance.
                Some(_) => 64,
            },
            retry_backoff: Duration::ZERO,
            ..ReaderConfig::default()
        };
        let mut options = EngineOptions::new(budget_bytes, workload);
        options.reader = reader;
        model.load(&options)
    }
}

fn way() -> impl Strategy<Value = Way> {
    let io = prop_oneof![Just(IoMode::Auto), Just(IoMode::Pread), Just(IoMode::Mmap), Just(IoMode::Direct)];
    let fault =
        prop_oneof![Just(Fault::Eio), Just(Fault::Interrupted), Just(Fault::Short), Just(Fault::Empty)];
    let faults = prop::option::of((fault, (2..7u64).prop_map(When::OneIn)));
    let chunk_bytes = prop_oneof![Just(4096), Just(12_288), Just(1 << 20)];
    let tile_rows = prop::option::of(1..600u64);
    (0.0..1.0f64, io, 1..5usize, chunk_bytes, any::<bool>(), faults, tile_rows).prop_map(
        |(pinned, io, threads, chunk_bytes, prefetch, faults, tile_rows)| Way {
            compute: Compute::Auto,
            pinned,
            io,
            threads,
            chunk_bytes,
            prefetch,
            faults,
            tile_rows,
        },
    )
}

/// Returns the bits of all logits of a prompt, some decoded tokens and a second prompt; and of all losses.
fn bits(engine: &mut Engine, prompt: &[u32], vocab: usize) -> Result<(Vec<u32>, Vec<u64>), ModelError> {
    let mut bits = Vec::new();
    let mut token = None;
    for step in 0..6 {
        let logits = match token {
            None => engine.forward(prompt)?,
            Some(_) if step == 4 => engine.forward(&prompt[..prompt.len().min(5)])?,
            Some(token) => engine.forward(&[token])?,
        };
        assert_eq!(logits.len(), vocab);
        assert!(logits.iter().all(|logit| logit.is_finite()));
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        token = Some(best.0 as u32);
        bits.extend(logits.iter().map(|logit| logit.to_bits()));
    }
    let losses = engine.losses(prompt)?;
    assert_eq!(losses.len(), prompt.len() - 1);
    Ok((bits, losses.iter().map(|loss| loss.to_bits()).collect()))
}

fn prompt_of(n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 31 + 7) % vocab) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_way_of_streaming_changes_a_bit(
        tiny in tiny(),
        compute in prop_oneof![Just(Compute::Auto), Just(Compute::Mlx)],
        ways in prop::collection::vec(way(), 3),
        n in 1..300usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        tiny.write(dir.path());
        let prompt = prompt_of(n, tiny.vocab);
        let resident = Way { compute, ..Way::RESIDENT };
        let resident = bits(&mut resident.open(dir.path()).unwrap(), &prompt, tiny.vocab).unwrap();
        for way in ways {
            let way = Way { compute, ..way };
            let mut engine = way.open(dir.path()).unwrap();
            let streamed = bits(&mut engine, &prompt, tiny.vocab).unwrap();
            prop_assert!(streamed == resident, "{:?} differs", way);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    #[cfg(target_os = "linux")]
    fn native_logits_do_not_depend_on_how_tokens_are_batched(tiny in tiny(), n in 1..300usize, first in 0..300usize) {
        let dir = tempfile::tempdir().unwrap();
        tiny.write(dir.path());
        let prompt = prompt_of(n, tiny.vocab);
        let native = Way { compute: Compute::Native, ..Way::RESIDENT };
        let together = native.open(dir.path()).unwrap().forward(&prompt).unwrap();
        let mut engine = native.open(dir.path()).unwrap();
        let (head, tail) = prompt.split_at(first.min(n - 1));
        let mut alone = Vec::new();
        if !head.is_empty() {
            engine.forward(head).unwrap();
        }
        for token in tail {
            alone = engine.forward(&[*token]).unwrap();
        }
        let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&alone), bits(&together));
    }
}

const SMALL: Tiny = Tiny {
    layers: 3,
    heads: 4,
    kv_heads: 2,
    vocab: 100,
    tied: false,
    biases: false,
    experts: None,
    format: Format::Affine(4),
    seed: 1,
};

/// Few experts of many, so that tokens differ in the experts they need.
const MIXTURE: Tiny = Tiny { experts: Some([8, 2]), ..SMALL };

const STREAM_ALL: Way = Way { pinned: 0.0, threads: 2, chunk_bytes: 4096, ..Way::RESIDENT };

fn written(tiny: &Tiny) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny.write(dir.path());
    dir
}

#[test]
fn at_the_floor_most_of_the_model_streams() {
    let dir = written(&Tiny { format: Format::F32, layers: 8, ..SMALL });
    let mut engine = STREAM_ALL.open(dir.path()).unwrap();
    engine.forward(&[1, 2, 3]).unwrap();
    let stats = engine.stats();
    assert!(stats.streamed_bytes * 2 > stats.model_bytes, "{stats:?}");
    engine.forward(&[4]).unwrap();
    assert_eq!(engine.stats().streamed_bytes, 2 * stats.streamed_bytes, "each pass reads the same");
    assert_eq!(stats.streamed_bytes, stats.pass_bytes);
}

#[test]
fn a_prompt_of_any_length_costs_one_pass_over_the_weights() {
    let dir = written(&Tiny { format: Format::F32, ..SMALL });
    let streamed = |n| {
        let mut engine = STREAM_ALL.open(dir.path()).unwrap();
        engine.forward(&prompt_of(n, 100)).unwrap();
        engine.stats().streamed_bytes
    };
    assert_eq!(streamed(300), streamed(1));
}

#[test]
fn a_token_reads_its_own_experts_and_a_prompt_each_that_it_needs_once() {
    let dir = written(&MIXTURE);
    let [of_layer, of_token] = MIXTURE.experts.unwrap();
    let mut engine = STREAM_ALL.open(dir.path()).unwrap();
    engine.forward(&[1]).unwrap();
    let one = engine.stats().experts.unwrap();
    assert_eq!((one.hits, one.misses), (0, (MIXTURE.layers * of_token) as u64));

    let mut engine = STREAM_ALL.open(dir.path()).unwrap();
    engine.forward(&prompt_of(300, 100)).unwrap();
    let prompt = engine.stats().experts.unwrap();
    assert_eq!((prompt.hits, prompt.misses), (0, (MIXTURE.layers * of_layer) as u64));
    assert_eq!(prompt.read_bytes, one.read_bytes * (of_layer / of_token) as u64);
}

#[test]
fn top_k_can_be_overridden() {
    let dir = written(&MIXTURE);
    let [of_layer, of_token] = MIXTURE.experts.unwrap();
    let open = || Model::open(Checkpoint::open(dir.path(), IoMode::Pread).unwrap()).unwrap();
    let workload = Workload::new(4, 4);
    let run = |top_k| {
        let mut model = open();
        if let Some(top_k) = top_k {
            assert_eq!(model.override_top_k(top_k).unwrap(), of_token);
        }
        let budget_bytes = model.floor_bytes(&workload);
        let mut engine = model.load(&EngineOptions::new(budget_bytes, workload)).unwrap();
        let logits = engine.forward(&[1]).unwrap();
        (logits, engine.stats().experts.unwrap().misses as usize)
    };
    let (trained, misses) = run(None);
    assert_eq!(misses, MIXTURE.layers * of_token);
    assert_eq!(run(Some(of_token)), (trained.clone(), misses));
    let (one, misses) = run(Some(1));
    assert_eq!(misses, MIXTURE.layers);
    assert_ne!(one, trained);
    for given in [0, of_layer + 1] {
        let error = open().override_top_k(given).unwrap_err();
        assert!(matches!(error, ModelError::TopK { n_experts, .. } if n_experts == of_layer), "{error:?}");
    }
    let dense = written(&SMALL);
    let mut dense = Model::open(Checkpoint::open(dense.path(), IoMode::Pread).unwrap()).unwrap();
    assert!(matches!(dense.override_top_k(1), Err(ModelError::NoExperts)));
}

#[test]
fn with_room_for_all_experts_each_is_read_once() {
    let dir = written(&MIXTURE);
    // A slot takes whole OS pages, which are large compared with these experts.
    let mut engine = Way { pinned: 20.0, ..Way::RESIDENT }.open(dir.path()).unwrap();
    engine.forward(&prompt_of(300, 100)).unwrap();
    let first = engine.stats().experts.unwrap();
    for token in 0..20 {
        engine.forward(&[token]).unwrap();
    }
    let then = engine.stats().experts.unwrap();
    assert_eq!((then.misses, then.read_bytes), (first.misses, first.read_bytes));
    assert!(then.hits > first.hits);
}

#[test]
fn experts_are_read_ahead_where_some_stay_and_change_no_bit() {
    let tiny = Tiny { experts: Some([32, 4]), layers: 4, ..MIXTURE };
    let dir = written(&tiny);
    let decode = |way: Way| {
        let mut engine = way.open(dir.path()).unwrap();
        let tokens = prompt_of(60, tiny.vocab);
        let logits = tokens.iter().map(|token| engine.forward(&[*token]).unwrap());
        let bits: Vec<u32> = logits.flatten().map(f32::to_bits).collect();
        (bits, engine.stats().experts.unwrap())
    };
    // A slot takes whole OS pages, which are large compared with these experts.
    let (wanted, resident) = decode(Way { pinned: 20.0, ..Way::RESIDENT });
    assert_eq!(resident.ahead.guessed, 0, "all stay in memory");
    let (floor, nothing) = decode(STREAM_ALL);
    assert_eq!(nothing.ahead.guessed, 0, "there are no slots for it");
    assert!(floor == wanted);
    for compute in [Compute::Auto, Compute::Mlx] {
        let wanted = decode(Way { compute, pinned: 20.0, ..Way::RESIDENT }).0;
        let mut right = 0;
        for pinned in [2.0, 4.0, 8.0] {
            let (got, experts) = decode(Way { compute, pinned, ..STREAM_ALL });
            assert!(got == wanted, "{pinned}");
            let ahead = experts.ahead;
            assert!(ahead.right <= ahead.guessed && ahead.right <= ahead.sought, "{ahead:?}");
            assert!(ahead.sought <= experts.misses, "{experts:?}");
            assert!(ahead.gain.is_some(), "60 tokens are more than a trial");
            right += ahead.right;
        }
        assert!(right > 0, "not one guess was right");
    }
}

#[test]
fn a_read_that_fails_for_good_is_a_typed_error_at_every_nth_read_and_leaves_the_engine_whole() {
    every_nth_read_fails(&SMALL);
}

#[test]
fn a_read_of_an_expert_that_fails_for_good_is_a_typed_error_and_leaves_the_engine_whole() {
    every_nth_read_fails(&MIXTURE);
}

fn every_nth_read_fails(tiny: &Tiny) {
    let dir = written(tiny);
    let prompt = prompt_of(20, tiny.vocab);
    let wanted = bits(&mut Way::RESIDENT.open(dir.path()).unwrap(), &prompt, tiny.vocab).unwrap();
    let mut failures = 0;
    for nth in 0..400 {
        // One read fails permanently; all others succeed.
        let way = Way { faults: Some((Fault::Denied, When::Nth(nth))), ..STREAM_ALL };
        let mut engine = match way.open(dir.path()) {
            Ok(engine) => engine,
            Err(error) => panic!("opening reads nothing through the faulty storage, yet {error}"),
        };
        match bits(&mut engine, &prompt, tiny.vocab) {
            Ok(got) => assert!(got == wanted, "read {nth}"),
            Err(ModelError::WeightRead { tensor, source: IoError::ReadFailed { path, .. } }) => {
                assert!(path.ends_with("model.safetensors"), "{path:?}");
                assert!(tensor.starts_with("model.") || tensor.starts_with("lm_head."), "{tensor}");
                failures += 1;
                engine.truncate(0).unwrap();
                let again = bits(&mut engine, &prompt, tiny.vocab).unwrap();
                assert!(again == wanted, "after the error of read {nth}");
            }
            Err(other) => panic!("read {nth}: {other:?}"),
        }
    }
    assert!(failures > 100, "only {failures} reads failed");
}

#[test]
fn a_file_truncated_while_running_names_tensor_offset_wanted_and_got() {
    let dir = written(&SMALL);
    let mut engine = STREAM_ALL.open(dir.path()).unwrap();
    engine.forward(&[1, 2, 3]).unwrap();
    let file = std::fs::File::options().write(true).open(dir.path().join("model.safetensors")).unwrap();
    file.set_len(6000).unwrap();
    // Bundles prefetched before the truncation are intact, so the first pass after it may still succeed.
    let error = (0..3).find_map(|_| engine.forward(&[4]).err()).expect("the weights are gone");
    let ModelError::WeightRead { source: IoError::ReadFailed { wanted_bytes, got_bytes, .. }, .. } = &error
    else {
        panic!("{error:?}")
    };
    assert!(got_bytes < wanted_bytes);
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn an_error_in_mid_pass_keeps_the_cache_as_it_was() {
    let dir = written(&SMALL);
    let mut engine = STREAM_ALL.open(dir.path()).unwrap();
    engine.forward(&[1, 2, 3]).unwrap();
    engine.interrupt().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(engine.forward(&[4]), Err(ModelError::Interrupted)));
    assert_eq!(engine.held_tokens(), 3);
    engine.interrupt().store(false, std::sync::atomic::Ordering::Relaxed);
    let after = engine.forward(&[4]).unwrap();
    engine.truncate(0).unwrap();
    engine.forward(&[1, 2, 3]).unwrap();
    assert_eq!(engine.forward(&[4]).unwrap(), after);
}

#[test]
fn below_the_floor_is_refused_before_any_weight_is_read() {
    let dir = written(&SMALL);
    // A storage that panics when it is read.
    let checkpoint = Checkpoint::open(dir.path(), IoMode::Pread)
        .unwrap()
        .map_storage(|_, storage| Arc::new(FaultyStorage::new(storage, Fault::Panic, When::From(0))));
    let workload = Workload::new(1, 1);
    let model = Model::open(checkpoint).unwrap();
    let floor_bytes = model.floor_bytes(&workload);
    let error = model.load(&EngineOptions::new(floor_bytes - 1, workload)).unwrap_err();
    assert!(
        matches!(error, ModelError::BelowFloor { floor_bytes: named, .. } if named >= floor_bytes),
        "{error:?}"
    );
    assert!(error.to_string().contains("MiB"), "{error}");
}

#[test]
fn context_and_vocabulary_are_checked() {
    let dir = written(&SMALL);
    let mut engine = STREAM_ALL.open(dir.path()).unwrap();
    assert!(matches!(engine.forward(&[]), Err(ModelError::EmptyPrompt)));
    assert!(matches!(
        engine.forward(&[1, 100]),
        Err(ModelError::TokenOutOfRange { token: 100, vocab_size: 100 })
    ));
    let too_long = prompt_of(engine.context_tokens() + 1, 100);
    assert!(matches!(engine.forward(&too_long), Err(ModelError::PromptTooLong { .. })));
    assert_eq!(engine.held_tokens(), 0);
}

#[test]
fn a_cap_on_the_read_rate_changes_no_bit() {
    let dir = written(&SMALL);
    let prompt = prompt_of(10, 100);
    let wanted = bits(&mut Way::RESIDENT.open(dir.path()).unwrap(), &prompt, 100).unwrap();
    let model = Model::open(Checkpoint::open(dir.path(), IoMode::Pread).unwrap()).unwrap();
    let workload = Workload::new(300, 400);
    let budget_bytes = model.floor_bytes(&workload);
    let mut options = EngineOptions::new(budget_bytes, workload);
    options.read_rate = flash_sched::ByteRate::new(20e6).ok();
    let mut engine = model.load(&options).unwrap();
    assert!(bits(&mut engine, &prompt, 100).unwrap() == wanted);
}

#[test]
fn an_embedding_table_stays_where_there_is_room_for_it_and_changes_no_bit() {
    for (format, tied) in
        [(Format::F32, false), (Format::F16, true), (Format::Affine(4), true), (Format::Affine(8), false)]
    {
        let tiny = Tiny { format, tied, ..SMALL };
        let dir = written(&tiny);
        let prompt = prompt_of(40, tiny.vocab);
        let mut streamed = STREAM_ALL.open(dir.path()).unwrap();
        let wanted = bits(&mut streamed, &prompt, tiny.vocab).unwrap();
        assert_eq!(streamed.stats().table_bytes, 0, "{format:?}: there was no room");

        let mut engine = Way::RESIDENT.open(dir.path()).unwrap();
        let useful_bytes = engine.useful_bytes();
        assert!(useful_bytes > engine.residency().plan().total_bytes);
        // The table is read at the lowest priority, and used by the first pass that finds it loaded.
        let has_table = |engine: &mut Engine| {
            (0..2000).any(|_| {
                engine.forward(&prompt[..1]).unwrap();
                engine.truncate(0).unwrap();
                std::thread::sleep(Duration::from_millis(1));
                engine.stats().table_bytes > 0
            })
        };
        assert!(has_table(&mut engine), "{format:?}");
        assert!(bits(&mut engine, &prompt, tiny.vocab).unwrap() == wanted, "{format:?}");

        engine.truncate(0).unwrap();
        engine.allowance().set(useful_bytes - 1);
        engine.forward(&prompt).unwrap();
        assert_eq!(
            (engine.stats().table_bytes, engine.stats().pass_bytes),
            (0, 0),
            "it goes first, and alone"
        );
        engine.allowance().set(useful_bytes);
        engine.truncate(0).unwrap();
        assert!(has_table(&mut engine), "{format:?}");
        let beyond = engine.forward(&[tiny.vocab as u32]).unwrap_err();
        assert!(matches!(beyond, ModelError::TokenOutOfRange { .. }), "{beyond}");
    }
}

/// The allowance shrinks and grows, before passes and during them.
#[test]
fn memory_that_comes_and_goes_changes_no_bit() {
    memory_comes_and_goes(&Tiny { layers: 12, biases: true, format: Format::F32, seed: 7, ..SMALL });
}

#[test]
fn memory_of_experts_that_comes_and_goes_changes_no_bit() {
    memory_comes_and_goes(&Tiny { layers: 6, format: Format::F32, seed: 7, ..MIXTURE });
}

fn memory_comes_and_goes(tiny: &Tiny) {
    for compute in [Compute::Auto, Compute::Mlx] {
        let dir = tempfile::tempdir().unwrap();
        tiny.write(dir.path());
        let prompt = prompt_of(290, tiny.vocab);
        for prefetch in [true, false] {
            let way = Way { compute, prefetch, ..Way::RESIDENT };
            let wanted = bits(&mut way.open(dir.path()).unwrap(), &prompt, tiny.vocab).unwrap();
            let mut engine = way.open(dir.path()).unwrap();
            let (allowance, all_bytes) = (engine.allowance(), engine.stats().budget_bytes);
            let floor_bytes = engine.stats().floor_bytes;

            // While idle, memory above the allowance is released by the next layer.
            assert_eq!(engine.stats().pass_bytes, 0);
            engine.forward(&prompt[..3]).unwrap();
            allowance.set(floor_bytes);
            let read_bytes = |engine: &mut Engine, token: usize| {
                let before = engine.stats().streamed_bytes;
                engine.forward(&prompt[token..token + 1]).unwrap();
                engine.stats().streamed_bytes - before
            };
            let of_token = tiny.experts.map_or(1.0, |[of_layer, of_token]| of_token as f64 / of_layer as f64);
            let least = engine.stats().model_bytes as f64 * of_token / 2.0;
            for token in [3, 3, 3] {
                assert!(read_bytes(&mut engine, token) as f64 > least, "{:?}", engine.stats());
            }
            allowance.set(all_bytes);
            read_bytes(&mut engine, 3);
            assert_eq!(read_bytes(&mut engine, 3), 0, "{:?}", engine.stats());
            engine.truncate(0).unwrap();

            in_mid_flight(&mut engine, &prompt, tiny.vocab, &wanted);
        }
    }
}

/// Checks that passes return `wanted` while another thread changes the allowance at random moments.
fn in_mid_flight(engine: &mut Engine, prompt: &[u32], vocab: usize, wanted: &(Vec<u32>, Vec<u64>)) {
    let (allowance, all_bytes) = (engine.allowance(), engine.stats().budget_bytes);
    let floor_bytes = engine.stats().floor_bytes;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut part = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                part = (part * 5 + 3) % 8;
                allowance.set(floor_bytes + (all_bytes - floor_bytes) * part / 7);
                std::thread::sleep(Duration::from_micros(700));
            }
        });
        for round in 0..3 {
            let found = bits(engine, prompt, vocab).unwrap();
            assert!(found == *wanted, "round {round}");
            engine.truncate(0).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
