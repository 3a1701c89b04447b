//! Soak test: runs a model in half of its memory for a long time, with disk faults, a varying allowance and interrupts,
//! and compares every bit with the same model fully in memory.
//!
//! ```sh
//! cargo run --release -p flash-model --example soak -- MODEL_DIR SECONDS
//! ```
//!
//! Ends with an error at the first bit that differs, the first byte above the budget, or a pass that does not end.

use std::error::Error;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flash_io::faults::{Fault, FaultyStorage, When};
use flash_io::{IoMode, ReaderConfig};
use flash_model::{
    Checkpoint, Engine, EngineOptions, KvFormat, KvPolicy, Model, ModelError, Workload, memory,
};

const CONTEXT_TOKENS: usize = 1024;
/// Prompt lengths, around the boundaries of chunks and pages.
const PROMPTS: [usize; 6] = [1, 40, 127, 257, 400, 700];
const ANSWER_TOKENS: usize = 24;
/// Disk faults, one per engine, that hit one read in n. No retry helps against the last one, so the pass fails.
const FAULTS: [(Fault, u64); 5] =
    [(Fault::Eio, 30), (Fault::Short, 7), (Fault::Interrupted, 7), (Fault::Empty, 30), (Fault::Denied, 4000)];
/// Rounds per engine.
const ROUNDS: usize = 24;
/// One in this many rounds is interrupted.
const INTERRUPTED: usize = 5;
/// Minimum and maximum time between two changes of the allowance.
const ALLOWANCE_INTERVAL: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(1500)];
/// Time limit of a round, on any disk.
const ROUND_MAX: Duration = Duration::from_secs(600);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(seconds)) = (args.next(), args.next()) else {
        return Err("usage: soak MODEL_DIR SECONDS".into());
    };
    let (dir, end) = (PathBuf::from(dir), Instant::now() + Duration::from_secs(seconds.parse()?));
    memory::bound_allocators();
    let alive = watch();

    let formats = [KvFormat::Exact, KvFormat::Int8];
    let mut wanted = Vec::new();
    for format in formats {
        let mut engine = open(&dir, format, None)?;
        let answers = PROMPTS.map(|n| answer(&mut engine, n));
        wanted.push(answers.into_iter().collect::<Result<Vec<_>, _>>()?);
        alive.send(())?;
    }
    memory::trim();

    let (mut rounds, mut failures, mut retries, mut n_changes, mut peak_bytes) = (0, 0, 0, 0, 0);
    for turn in 0.. {
        let (format_idx, fault) = (turn % formats.len(), FAULTS[turn % FAULTS.len()]);
        let mut engine = open(&dir, formats[format_idx], Some(fault))?;
        let varied = VariedAllowance::of(&engine, turn as u64);
        for round in 0..ROUNDS {
            let prompt_idx = (turn + round) % PROMPTS.len();
            if round % INTERRUPTED == INTERRUPTED - 1 {
                interrupt(&mut engine, PROMPTS[prompt_idx])?;
            }
            let got = loop {
                match answer(&mut engine, PROMPTS[prompt_idx]) {
                    Err(ModelError::WeightRead { .. } | ModelError::Io(_)) => failures += 1,
                    got => break got?,
                }
            };
            if got != wanted[format_idx][prompt_idx] {
                return Err(format!("turn {turn}, round {round}, {fault:?}: the output differs").into());
            }
            let resident_bytes = memory::resident().map_or(0, |resident| resident.now_bytes);
            if resident_bytes > engine.stats().budget_bytes {
                return Err(format!("turn {turn}, round {round}: {resident_bytes} B resident").into());
            }
            peak_bytes = peak_bytes.max(resident_bytes);
            rounds += 1;
            alive.send(())?;
        }
        n_changes += varied.end();
        let stats = engine.stats();
        retries += stats.retries;
        writeln!(
            io::stdout(),
            "{rounds} rounds, {retries} reads repeated, {failures} passes failed, {n_changes} changes of memory; {} MiB resident at most, budget {} MiB",
            peak_bytes >> 20,
            stats.budget_bytes >> 20,
        )?;
        if Instant::now() > end {
            break;
        }
    }
    Ok(())
}

/// Loads the model: with a fault, in the floor plus half of all weights; without, fully in memory.
fn open(dir: &Path, format: KvFormat, fault: Option<(Fault, u64)>) -> Result<Engine, ModelError> {
    let mut checkpoint = Checkpoint::open(dir, IoMode::Auto)?;
    if let Some((fault, n)) = fault {
        let faulty = |storage| FaultyStorage::new(storage, fault, When::OneIn(n));
        checkpoint = checkpoint.map_storage(|_, storage| Arc::new(faulty(storage)));
    }
    let model = Model::open(checkpoint)?;
    let workload = Workload::new(CONTEXT_TOKENS, CONTEXT_TOKENS).with_kv(KvPolicy::new(format));
    let room_bytes = if fault.is_some() { model.model_bytes() / 2 } else { 1 << 40 };
    let budget_bytes = model.floor_bytes(&workload) + room_bytes;
    let reader = ReaderConfig { max_retries: 16, retry_backoff: Duration::ZERO, ..ReaderConfig::default() };
    let mut options = EngineOptions::new(budget_bytes, workload);
    options.reader = reader;
    model.load(&options)
}

/// Returns a hash of the logits of a prompt and of a greedy answer to it.
fn answer(engine: &mut Engine, n: usize) -> Result<u64, ModelError> {
    engine.truncate(0)?;
    let mut logits = engine.forward(&prompt(n))?;
    let mut bits = DefaultHasher::new();
    for _ in 0..ANSWER_TOKENS {
        logits.iter().for_each(|logit| bits.write_u32(logit.to_bits()));
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let token = best.map_or(0, |(token, _)| token as u32);
        logits = engine.forward(&[token])?;
    }
    Ok(bits.finish())
}

/// A thread that varies an engine's allowance between its floor and its budget.
struct VariedAllowance {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl VariedAllowance {
    fn of(engine: &Engine, seed: u64) -> Self {
        let (allowance, stats) = (engine.allowance(), engine.stats());
        let (floor_bytes, room_bytes) = (stats.floor_bytes, stats.budget_bytes - stats.floor_bytes);
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut n_changes = 0;
            while !ends.load(Ordering::Relaxed) {
                // Clamping makes the floor and the full budget frequent.
                let part = (random.f64() * 1.4 - 0.2).clamp(0.0, 1.0);
                allowance.set(floor_bytes + (part * room_bytes as f64) as u64);
                n_changes += 1;
                let [shortest, longest] = ALLOWANCE_INTERVAL;
                thread::sleep(shortest + (longest - shortest).mul_f64(random.f64()));
            }
            n_changes
        });
        Self { is_over, thread }
    }

    /// Stops the thread, and returns the number of changes.
    fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only sleeps")
    }
}

fn prompt(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + 13 * i) % 1000 + 5).collect()
}

/// Interrupts a pass at an arbitrary point.
fn interrupt(engine: &mut Engine, n: usize) -> Result<(), ModelError> {
    let flag = engine.interrupt();
    let interrupter = {
        let flag = Arc::clone(&flag);
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            flag.store(true, Ordering::Relaxed);
        })
    };
    let outcome = answer(engine, n);
    interrupter.join().expect("it only sleeps");
    flag.store(false, Ordering::Relaxed);
    match outcome {
        Ok(_) | Err(ModelError::Interrupted | ModelError::WeightRead { .. } | ModelError::Io(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Starts a watchdog that ends the process if no message arrives for [`ROUND_MAX`].
fn watch() -> mpsc::Sender<()> {
    let (alive, watched) = mpsc::channel();
    thread::spawn(move || {
        loop {
            match watched.recv_timeout(ROUND_MAX) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let _ = writeln!(io::stderr(), "error: a round takes more than {ROUND_MAX:?}");
                    process::exit(1);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    alive
}
