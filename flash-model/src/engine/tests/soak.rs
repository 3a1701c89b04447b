//! Many contexts for a long time, on a disk whose reads fail now and then.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_io::IoMode;
use flash_io::faults::{Fault, FaultyStorage, When};

use super::{fixture, ids};
use crate::checkpoint::Checkpoint;
use crate::engine::{Context, Engine, EngineOptions, Logits, Model, Segment, Workload};
use crate::kv::{KvFormat, KvPolicy};
use crate::{ModelError, memory};

/// Seconds that the test takes for each model, if set in the environment.
const SECONDS: &str = "FLASH_SOAK_SECONDS";
/// Contexts that memory is planned for.
const IN_MEMORY: usize = 4;
/// Maximum contexts.
const CONTEXTS: usize = 1000;
/// Growth of the resident set that is noise: of the allocator, and of code that runs for the first time.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

/// Contexts, and the order in which those in memory were used.
#[derive(Default)]
struct Contexts {
    all: Vec<Context>,
    /// Indices of contexts in memory, the least recently used first.
    in_memory: VecDeque<usize>,
}

impl Contexts {
    /// Parks contexts until there is memory for those of `used`, which become the most recent, and for `n_new` others.
    fn make_room(&mut self, used: &[usize], n_new: usize) {
        self.in_memory.retain(|idx| !used.contains(idx) && !self.all[*idx].is_parked());
        while self.in_memory.len() + used.len() + n_new > IN_MEMORY {
            let idx = self.in_memory.pop_front().expect("more than those that are used");
            self.all[idx].park().unwrap();
        }
        self.in_memory.extend(used);
    }

    fn remove(&mut self, idx: usize) {
        drop(self.all.swap_remove(idx));
        let last = self.all.len();
        self.in_memory.retain(|other| *other != idx);
        // The last one has its place now.
        self.in_memory.iter_mut().filter(|other| **other == last).for_each(|other| *other = idx);
    }
}

/// Returns some of `0..n`, each once.
fn some(rng: &mut fastrand::Rng, n: usize, max: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = (0..rng.usize(1..=max)).map(|_| rng.usize(..n)).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Feeds some contexts, with drafts among them, and cancels some passes. Returns whether the pass failed.
fn feed(engine: &mut Engine, contexts: &mut Contexts, rng: &mut fastrand::Rng, logits: &mut Logits) -> bool {
    let used = some(rng, contexts.all.len(), IN_MEMORY);
    contexts.make_room(&used, 0);
    let tokens = ids(200);
    let mut segments = Vec::new();
    for (idx, context) in contexts.all.iter_mut().enumerate().filter(|(idx, _)| used.contains(idx)) {
        let len = [1, 1, 2, 7, 150][rng.usize(..5)];
        if context.held_tokens() + len > context.max_tokens() {
            context.truncate(0).unwrap();
        }
        let is_tentative = idx % 2 == 0 && len <= context.tentative_room().min(8);
        segments.push(Segment { is_tentative, ..Segment::new(context, &tokens[idx % 50..][..len]) });
    }
    if rng.u8(..8) == 0 {
        engine.model.interrupt.after(rng.usize(..20));
    }
    let outcome = engine.pass(&mut segments, logits);
    engine.model.interrupt.never();
    for context in segments.into_iter().map(|segment| segment.context) {
        let n_tentative = context.tentative_tokens();
        context.commit(rng.usize(..=n_tentative)).unwrap();
    }
    match outcome {
        Ok(outcomes) => outcomes.iter().any(Result::is_err),
        Err(ModelError::Interrupted) => true,
        Err(error) => {
            assert!(error.to_string().contains("Permission denied"), "{error}");
            true
        }
    }
}

#[expect(clippy::print_stdout, reason = "the figures are what a long run is for")]
fn soak(name: &str, format: KvFormat, dir: &Path, time: Duration) {
    let workload = Workload::new(300, 400)
        .with_kv(KvPolicy::new(format))
        .with_contexts(IN_MEMORY)
        .with_tentative_rows(8 * IN_MEMORY);
    let checkpoint = Checkpoint::open(&fixture(name), IoMode::Pread).unwrap();
    let checkpoint = checkpoint
        .map_storage(|_, storage| Arc::new(FaultyStorage::new(storage, Fault::Denied, When::OneIn(500))));
    let model = Model::open(checkpoint).unwrap();
    let mut options = EngineOptions::new(model.floor_bytes(&workload), workload);
    options.kv_dir = dir.to_owned();
    let mut engine = model.load(&options).unwrap();
    let mut logits = Logits::default();
    // The first pass allocates some memory for good.
    while engine.forward(&ids(300)).is_err() {}
    engine.context = None;
    let used_bytes = engine.budget.used_bytes();
    let (mut contexts, mut rng) = (Contexts::default(), fastrand::Rng::with_seed(3));
    let begin = Instant::now();
    let (mut n_passes, mut n_failed, mut settled_bytes) = (0, 0, None);
    while begin.elapsed() < time {
        match rng.u8(..10) {
            0..4 if contexts.all.len() < CONTEXTS => contexts.all.push(engine.new_context()),
            4 if contexts.all.len() < CONTEXTS && !contexts.all.is_empty() => {
                let idx = rng.usize(..contexts.all.len());
                contexts.make_room(&[idx], 1);
                let fork = engine.fork(&mut contexts.all[idx]).unwrap();
                contexts.all.push(fork);
                contexts.in_memory.push_back(contexts.all.len() - 1);
            }
            5 if contexts.all.len() > CONTEXTS / 2 => contexts.remove(rng.usize(..contexts.all.len())),
            _ if contexts.all.is_empty() => {}
            _ => {
                n_passes += 1;
                n_failed += usize::from(feed(&mut engine, &mut contexts, &mut rng, &mut logits));
            }
        }
        if settled_bytes.is_none() && begin.elapsed() > time / 2 {
            settled_bytes = memory::resident().map(|resident| resident.now_bytes);
        }
    }
    let n_contexts = contexts.all.len();
    assert!(n_failed > n_passes / 100, "{name}: {n_failed} of {n_passes} passes failed");
    if let (Some(settled_bytes), Some(resident)) = (settled_bytes, memory::resident()) {
        let growth_bytes = resident.now_bytes.saturating_sub(settled_bytes);
        println!(
            "{name}: {n_contexts} contexts, {n_passes} passes, {n_failed} failed, {settled_bytes} B resident, \
             {growth_bytes} B more at the end"
        );
        assert!(growth_bytes <= GROWTH_BYTES_MAX, "{name}: {growth_bytes} B more than {settled_bytes}");
    }
    drop(contexts);
    assert_eq!(engine.budget.used_bytes(), used_bytes, "{name}");
    drop(engine);
    let left = fs::read_dir(dir).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(left.count(), 0, "{name}");
}

#[test]
fn a_thousand_contexts_on_a_failing_disk_leave_nothing_behind() {
    let seconds = std::env::var(SECONDS).map_or(4, |seconds| seconds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    for (name, format) in
        [("biases", KvFormat::Int8), ("qwen3_next-paired", KvFormat::Exact), ("mixtral", KvFormat::F16)]
    {
        soak(name, format, dir.path(), Duration::from_secs(seconds));
    }
}
