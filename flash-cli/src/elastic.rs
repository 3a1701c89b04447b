//! `--ram auto`: releases memory under pressure, and takes it back once it has been free for a while.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flash_model::Allowance;
use flash_model::memory::{self, PressureGauge};
use flash_sched::{ElasticBudget, Memory};

/// A thread that adapts the engine's memory to the free memory of the machine. Dropping it stops the thread.
#[derive(Debug)]
pub(crate) struct MemoryWatcher {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatcher {
    /// Starts the thread, which keeps `allowance` between zero and `budget_bytes`.
    pub(crate) fn start(allowance: Allowance, budget_bytes: u64, headroom_bytes: u64) -> Self {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let mut elastic = ElasticBudget::new(budget_bytes, headroom_bytes);
            let mut gauge = PressureGauge::new();
            let begin = Instant::now();
            let mut pause = Duration::ZERO;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let held_bytes = memory::resident().map_or(0, |resident| resident.now_bytes);
                let free_bytes = memory::available_bytes();
                let seen = Memory { free_bytes, held_bytes, is_stalled: gauge.is_stalled() };
                allowance.set(elastic.step(begin.elapsed(), seen));
                pause = elastic.next_check_in(seen);
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for MemoryWatcher {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches the machine's memory panicked");
        }
    }
}
