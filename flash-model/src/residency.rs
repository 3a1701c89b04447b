//! Residency: which bundles hold data. Here the plan meets the reader.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use flash_io::{Budget, IoError, Reader, Slot, SlotPool};
use flash_sched::{Estimates, ResidencyPlan};
use mlx_rs::Array;
use mlx_rs::transforms::async_eval;

use crate::ModelError;
use crate::bundle::{Bundle, BundleIdx, Bundles};
use crate::control::Control;
use crate::meter::{Meter, Witness};
use crate::pace::Pacer;
use crate::read_ahead::{Load, ReadAhead, Source};
use crate::record::{Event, EventKind, Recorder};

/// How long a slot may take to come back when nothing computes any more. It is given back on another thread, a moment after
/// what was computed with it is there.
const SLOT_RETURN: Duration = Duration::from_secs(2);

/// Loads bundles in execution order, ahead of the layers that need them.
///
/// The order is a cycle: behind the last bundle comes the first one of the next token. A pinned bundle is loaded once;
/// the others pass through the slots, each read as soon as a slot is free.
#[derive(Debug)]
pub struct Residency {
    source: Arc<Source>,
    prefetch: bool,
    /// Begun with the first read, if bundles are prefetched at all.
    read_ahead: Option<ReadAhead>,
    /// Of pinned layers, what nobody has begun to compute.
    lazy: Option<Array>,
    /// What computes, or has computed last.
    in_flight: Option<Array>,
    stall: Duration,
    streamed_bytes: u64,
    /// None if nothing is streamed: then nothing is added to what MLX does.
    meter: Option<Meter>,
    /// None if nothing is read ahead.
    control: Option<Control>,
    recorder: Recorder,
    pass: Option<(usize, Instant)>,
}

/// Who decides how bundles are read, and who looks on.
#[derive(Debug)]
pub struct Conduct {
    pub(crate) prefetch: bool,
    pub(crate) pacer: Pacer,
    pub(crate) events: Option<Sender<Event>>,
}

impl Conduct {
    /// Reads as fast as the disk can; with `prefetch`, ahead of the layers.
    pub fn free(prefetch: bool) -> Self {
        Self { prefetch, pacer: Pacer::new(None), events: None }
    }
}

impl Residency {
    /// Takes the slots from the budget; nothing is read yet. `reader` must read the checkpoint's shards, and `plan` be
    /// one of these `bundles`.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the budget has no room for the slots.
    pub fn new(
        bundles: Bundles,
        plan: ResidencyPlan,
        reader: Reader,
        budget: &Budget,
        conduct: Conduct,
    ) -> Result<Self, ModelError> {
        let Conduct { prefetch, pacer, events } = conduct;
        let streamed = bundles.as_slice().iter().zip(&plan.pinned).filter(|(_, pinned)| !**pinned);
        let slot_bytes = streamed.map(|(bundle, _)| bundle.slot_bytes()).max().unwrap_or(0);
        let pool = SlotPool::new(budget, slot_bytes, plan.n_slots)?;
        let source = Arc::new(Source { bundles, plan, reader, pool, budget: budget.clone() });
        let streams = source.plan.streamed_bytes > 0;
        Ok(Self {
            prefetch,
            read_ahead: None,
            lazy: None,
            in_flight: None,
            stall: Duration::ZERO,
            streamed_bytes: 0,
            meter: streams.then(|| Meter::new(&source)),
            control: (streams && prefetch).then(|| Control::new(&source, pacer)),
            recorder: Recorder::new(events),
            pass: None,
            source,
        })
    }

    /// The reader, for small reads beside the bundles.
    pub(crate) fn reader(&self) -> &Reader {
        &self.source.reader
    }

    pub(crate) fn bundle(&self, idx: BundleIdx) -> &Bundle {
        self.source.bundle(idx)
    }

    pub(crate) fn is_pinned(&self, idx: BundleIdx) -> bool {
        self.source.is_pinned(idx)
    }

    /// The bundles, in execution order.
    pub fn bundles(&self) -> &Bundles {
        &self.source.bundles
    }

    /// Which of them are pinned, and the slots of the others.
    pub fn plan(&self) -> &ResidencyPlan {
        &self.source.plan
    }

    /// How long computing has waited for reads.
    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// Bytes of weights that came and went, so far.
    pub fn streamed_bytes(&self) -> u64 {
        self.streamed_bytes
    }

    /// Weights that stay once they are read.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.sum_tensor_bytes(true)
    }

    /// Weights that each pass reads.
    pub(crate) fn pass_bytes(&self) -> u64 {
        self.sum_tensor_bytes(false)
    }

    fn sum_tensor_bytes(&self, pinned: bool) -> u64 {
        let Source { bundles, plan, .. } = &*self.source;
        let all = bundles.as_slice().iter().zip(&plan.pinned);
        let matching = all.filter(|(_, is_pinned)| **is_pinned == pinned);
        matching.map(|(bundle, _)| bundle.tensor_bytes()).sum()
    }

    /// Begins to read the first bundles, if they are prefetched at all.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the system gives no thread.
    pub fn start(&mut self) -> Result<(), ModelError> {
        if self.prefetch && self.read_ahead.is_none() {
            self.read_ahead = Some(ReadAhead::start(Arc::clone(&self.source))?);
        }
        Ok(())
    }

    /// A pass begins; whatever was left of one that failed is forgotten.
    pub(crate) fn begin_pass(&mut self, n_tokens: usize) -> Result<(), ModelError> {
        self.start()?;
        self.lazy = None;
        self.pass = Some((n_tokens, Instant::now()));
        if let Some(meter) = &mut self.meter {
            meter.begin(&self.source);
        }
        if let (Some(control), Some(read_ahead)) = (&mut self.control, &self.read_ahead) {
            control.begin(n_tokens, &self.source, read_ahead);
        }
        Ok(())
    }

    /// A pass has ended, and nothing computes.
    pub(crate) fn end_pass(&mut self) {
        if let Some(meter) = &mut self.meter {
            meter.settled(&self.source);
        }
        self.learn();
        if let Some((tokens, begin)) = self.pass.take() {
            self.recorder.add(EventKind::Pass { tokens }, begin, Instant::now());
        }
    }

    /// Tells whoever wants to know what was computed meanwhile.
    fn learn(&mut self) {
        let Some(meter) = &mut self.meter else { return };
        let is_token = self.pass.is_some_and(|(n_tokens, _)| n_tokens == 1);
        while let Some(group) = meter.next_ended() {
            self.recorder.add_group(&group);
            if let (true, Some(control), Some(read_ahead)) = (is_token, &mut self.control, &self.read_ahead) {
                control.step(&group, self.stall, &self.source, read_ahead);
            }
        }
    }

    /// What the controller has learned; `None` if there is none.
    pub fn estimates(&self) -> Option<Estimates> {
        self.control.as_ref().map(Control::estimates)
    }

    /// A pinned bundle is used.
    pub(crate) fn uses_pinned(&mut self, idx: BundleIdx) {
        if let Some(meter) = &mut self.meter {
            meter.pinned(idx);
        }
    }

    /// The output of a pinned layer, which is begun to be computed with that of the next streamed one, or when that one has
    /// to be waited for.
    pub(crate) fn follow(&mut self, output: &Array) {
        if self.meter.is_some() {
            self.lazy = Some(output.clone());
        }
    }

    /// Begins to compute `output` and does not wait for it: the next layer is made ready meanwhile. Slots that it computes
    /// with come back when it is done, if nobody else holds their arrays.
    pub(crate) fn compute(&mut self, output: &Array) -> Result<(), ModelError> {
        async_eval([output])?;
        self.lazy = None;
        self.in_flight = Some(output.clone());
        Ok(())
    }

    /// Waits until nothing computes that could.
    fn settle(&mut self) -> Result<(), ModelError> {
        if let Some(lazy) = self.lazy.take() {
            self.compute(&lazy)?;
        }
        if let Some(output) = self.in_flight.take() {
            output.eval()?;
        }
        if let Some(meter) = &mut self.meter {
            meter.settled(&self.source);
        }
        Ok(())
    }

    /// Waits for a bundle and hands out its slot, which goes back to its pool when it is dropped, and what is to be dropped
    /// with it.
    ///
    /// Waiting is counted as a stall from when nothing computes any more.
    pub(crate) fn acquire(&mut self, idx: BundleIdx) -> Result<(Slot, Option<Witness>), ModelError> {
        let load = self.load(idx)?.map_err(|source| self.bundle(idx).read_error(source))?;
        let Load { ticket, submitted } = load;
        if !ticket.is_done() {
            self.settle()?;
            self.stalled(idx, || ticket.wait_until_done());
        }
        let ended = ticket.ended();
        let slot = ticket.wait().map_err(|source| self.bundle(idx).read_error(source))?;
        if let Some(ended) = ended {
            let bytes = slot.len() as u64;
            self.recorder.add(EventKind::Read { bundle: idx.0, bytes }, submitted, ended);
        }
        self.learn();
        if self.is_pinned(idx) {
            return Ok((slot, None));
        }
        self.streamed_bytes += self.bundle(idx).tensor_bytes();
        let source = &self.source;
        let witness = self.meter.as_mut().map(|meter| meter.streamed(idx, source));
        Ok((slot, witness))
    }

    /// The load of a bundle: a read ahead, or one on demand.
    fn load(&mut self, idx: BundleIdx) -> Result<Result<Load, IoError>, ModelError> {
        self.start()?;
        let source = Arc::clone(&self.source);
        let held = || ModelError::SlotHeld { bundle: source.bundle(idx).name.clone() };
        if let Some(ahead) = &self.read_ahead {
            if let Some(load) = ahead.try_take(idx) {
                return Ok(load);
            }
            // All slots are out: those that were computed with come back when that is done.
            self.settle()?;
            let begin = Instant::now();
            let load = self.read_ahead.as_ref().and_then(|ahead| ahead.take_within(idx, SLOT_RETURN));
            self.count_stall(idx, begin);
            return load.ok_or_else(held);
        }
        self.settle()?;
        let slot = if source.is_pinned(idx) {
            source.lone_slot(idx)?
        } else {
            source.pool.acquire_within(SLOT_RETURN).ok_or_else(held)?
        };
        Ok(Ok(source.submit(idx, slot)))
    }

    fn stalled(&mut self, idx: BundleIdx, wait: impl FnOnce()) {
        let begin = Instant::now();
        wait();
        self.count_stall(idx, begin);
    }

    fn count_stall(&mut self, idx: BundleIdx, begin: Instant) {
        let end = Instant::now();
        self.stall += end - begin;
        self.recorder.add(EventKind::Wait { bundle: idx.0 }, begin, end);
    }
}
