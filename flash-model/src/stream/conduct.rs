//! The feedback loop of reads: measurements go to the controller, and its decisions to the pacer and the read-ahead.
//!
//! Two threads report events: the one that runs the layers, and the read-ahead thread, which wakes when a slot is
//! released and is therefore the first to know that a layer has been computed.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use flash_io::Reader;
use flash_sched::{Estimates, ResidencyPlan};
use parking_lot::Mutex;

use crate::kv::PageCounters;
use crate::stream::bundle::{BundleIdx, Bundles};
use crate::stream::control::{Control, Reads};
use crate::stream::meter::{Meter, Probe, SlotReleaseTimer};
use crate::stream::pace::Pacer;
use crate::stream::record::{Event, EventKind, Recorder};

/// Options for reading bundles, and the listener for events.
#[derive(Debug)]
pub struct ReadOptions {
    pub(crate) prefetch: bool,
    pub(crate) pacer: Pacer,
    pub(crate) events: Option<Sender<Event>>,
    /// Reads of KV pages, whose waiting time is not counted as compute.
    pub(crate) pages: PageCounters,
}

impl ReadOptions {
    /// Creates options without a cap on the read rate: reads run at full speed, or at the controller's rate. With
    /// `prefetch`, bundles are read ahead of the layers; otherwise on demand.
    pub fn free(prefetch: bool) -> Self {
        Self { prefetch, pacer: Pacer::new(None), events: None, pages: PageCounters::default() }
    }
}

/// Measures an engine, and controls its reads accordingly.
#[derive(Debug)]
pub(crate) struct FeedbackLoop {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The rate limit of reads.
    pacer: Pacer,
    /// `None` if nothing is streamed, so that resident models are not slowed down.
    meter: Option<Meter>,
    /// `None` without read-ahead.
    control: Option<Control>,
    recorder: Recorder,
    stall: Duration,
    pages: PageCounters,
    /// Tokens of the pass in progress, and its start.
    pass: Option<(usize, Instant)>,
}

impl FeedbackLoop {
    pub(crate) fn new(
        bundles: &Bundles,
        plan: &ResidencyPlan,
        reader: &Reader,
        conduct: ReadOptions,
    ) -> Self {
        let ReadOptions { prefetch, pacer, events, pages } = conduct;
        let (meter, control) = (None, None);
        let (recorder, stall) = (Recorder::new(events), Duration::ZERO);
        let feedback =
            Self { state: Mutex::new(State { pacer, meter, control, recorder, stall, pages, pass: None }) };
        feedback.replan(bundles, plan, reader, prefetch);
        feedback
    }

    /// Restarts measurement and control for another plan.
    pub(crate) fn replan(&self, bundles: &Bundles, plan: &ResidencyPlan, reader: &Reader, prefetch: bool) {
        let state = &mut *self.state.lock();
        let streams = plan.streamed_bytes > 0;
        state.pacer.set_rate(None);
        let probe = || Probe { reads: reader.stats_handle(), pages: state.pages.clone() };
        state.meter = streams.then(|| Meter::new(probe()));
        state.control = (streams && prefetch).then(|| Control::new(bundles, plan, state.pacer.clone()));
    }

    /// Begins a pass, and discards what a failed one has left.
    pub(crate) fn begin_pass(&self, n_tokens: usize, reads: Option<&dyn Reads>) {
        let State { meter, control, pass, .. } = &mut *self.state.lock();
        *pass = Some((n_tokens, Instant::now()));
        if let Some(meter) = meter {
            meter.begin();
        }
        if let (Some(control), Some(reads)) = (control, reads) {
            control.begin(n_tokens, reads);
        }
    }

    /// Ends a pass. After a complete one, nothing is computing.
    pub(crate) fn end_pass(&self, is_complete: bool, reads: Option<&dyn Reads>) {
        let state = &mut *self.state.lock();
        if is_complete {
            state.mark_idle();
            state.update(reads);
        }
        if let Some((tokens, begin)) = state.pass.take() {
            state.recorder.add(EventKind::Pass { tokens }, begin, Instant::now());
        }
    }

    /// Reports the fraction of the pass that is done.
    pub(crate) fn progress(&self, part: f64) {
        let State { recorder, pass, .. } = &mut *self.state.lock();
        if let &mut Some((tokens, begin)) = pass {
            let tokens_done = (part * tokens as f64) as usize;
            recorder.add(EventKind::Prompt { tokens_done, tokens }, begin, Instant::now());
        }
    }

    /// Passes completed groups to the controller and the event listener.
    pub(crate) fn update(&self, reads: Option<&dyn Reads>) {
        self.state.lock().update(reads);
    }

    /// Records the use of a pinned bundle.
    pub(crate) fn record_pinned(&self, idx: BundleIdx) {
        if let Some(meter) = &mut self.state.lock().meter {
            meter.add_pinned(idx);
        }
    }

    /// Records the use of a loaded bundle. The timer is to be dropped together with its slot.
    pub(crate) fn record_streamed(&self, idx: BundleIdx) -> Option<SlotReleaseTimer> {
        let meter = &mut self.state.lock().meter;
        meter.as_mut().map(|meter| meter.close_group(idx))
    }

    /// Records that nothing is computing.
    pub(crate) fn mark_idle(&self) {
        self.state.lock().mark_idle();
    }

    /// Records a stall for a bundle, from `begin` until now.
    pub(crate) fn record_stall(&self, idx: BundleIdx, begin: Instant) {
        let State { stall, recorder, .. } = &mut *self.state.lock();
        let end = Instant::now();
        *stall += end - begin;
        recorder.add(EventKind::Wait { bundle: idx.0 }, begin, end);
    }

    /// Records a completed read.
    pub(crate) fn record_read(&self, idx: BundleIdx, bytes: u64, submitted: Instant, ended: Instant) {
        self.state.lock().recorder.add(EventKind::Read { bundle: idx.0, bytes }, submitted, ended);
    }

    /// Returns the total time that compute stalled for reads.
    pub(crate) fn stall(&self) -> Duration {
        self.state.lock().stall
    }

    /// Returns the controller's estimates; `None` if there is no controller.
    pub(crate) fn estimates(&self) -> Option<Estimates> {
        self.state.lock().control.as_ref().map(Control::estimates)
    }
}

impl State {
    fn mark_idle(&mut self) {
        if let Some(meter) = &mut self.meter {
            meter.mark_idle();
        }
    }

    fn update(&mut self, reads: Option<&dyn Reads>) {
        let Self { meter: Some(meter), control, recorder, stall, pass, .. } = self else { return };
        let is_token = pass.is_some_and(|(n_tokens, _)| n_tokens == 1);
        while let Some(group) = meter.next_ended() {
            recorder.add_group(&group);
            if let (true, Some(control), Some(reads)) = (is_token, control.as_mut(), reads) {
                control.step(&group, *stall, reads);
            }
        }
    }
}
