//! Where policy meets mechanism: what is measured goes to the controller, and what it decides to the reads.
//!
//! Two threads tell what happens: the one that runs the layers, and the one that reads ahead, which wakes when a slot comes
//! back, and so is the first to know that a layer was computed.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use flash_io::Reader;
use flash_sched::{Estimates, ResidencyPlan};
use parking_lot::Mutex;

use crate::kv::PageTraffic;
use crate::stream::bundle::{BundleIdx, Bundles};
use crate::stream::control::{Control, Reads};
use crate::stream::meter::{Meter, Probe, SlotReleaseTimer};
use crate::stream::pace::Pacer;
use crate::stream::record::{Event, EventKind, Recorder};

/// How bundles are read, and who looks on.
#[derive(Debug)]
pub struct Conduct {
    pub(crate) prefetch: bool,
    pub(crate) pacer: Pacer,
    pub(crate) events: Option<Sender<Event>>,
    /// The reads of pages, which compute is not to be mistaken for.
    pub(crate) pages: PageTraffic,
}

impl Conduct {
    /// Reads as fast as the disk can, or the controller lets it; with `prefetch`, ahead of the layers.
    pub fn free(prefetch: bool) -> Self {
        Self { prefetch, pacer: Pacer::new(None), events: None, pages: PageTraffic::default() }
    }
}

/// What was measured of an engine, and what follows from it.
#[derive(Debug)]
pub(crate) struct FeedbackLoop {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What is asked of reads.
    pacer: Pacer,
    /// None if nothing is streamed: then nothing is added to what MLX does.
    meter: Option<Meter>,
    /// None if nothing is read ahead.
    control: Option<Control>,
    recorder: Recorder,
    stall: Duration,
    pages: PageTraffic,
    /// The tokens of the pass that is under way, and since when it is.
    pass: Option<(usize, Instant)>,
}

impl FeedbackLoop {
    pub(crate) fn new(bundles: &Bundles, plan: &ResidencyPlan, reader: &Reader, conduct: Conduct) -> Self {
        let Conduct { prefetch, pacer, events, pages } = conduct;
        let (meter, control) = (None, None);
        let (recorder, stall) = (Recorder::new(events), Duration::ZERO);
        let feedback =
            Self { state: Mutex::new(State { pacer, meter, control, recorder, stall, pages, pass: None }) };
        feedback.replan(bundles, plan, reader, prefetch);
        feedback
    }

    /// Another plan: what was learned is learned anew.
    pub(crate) fn replan(&self, bundles: &Bundles, plan: &ResidencyPlan, reader: &Reader, prefetch: bool) {
        let state = &mut *self.state.lock();
        let streams = plan.streamed_bytes > 0;
        state.pacer.set_rate(None);
        let probe = || Probe { reads: reader.stats_handle(), pages: state.pages.clone() };
        state.meter = streams.then(|| Meter::new(probe()));
        state.control = (streams && prefetch).then(|| Control::new(bundles, plan, state.pacer.clone()));
    }

    /// A pass begins; whatever was left of one that failed is forgotten.
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

    /// A pass has ended. If it is complete, nothing computes.
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

    /// So much of the pass is done, of `1`.
    pub(crate) fn progress(&self, part: f64) {
        let State { recorder, pass, .. } = &mut *self.state.lock();
        if let &mut Some((tokens, begin)) = pass {
            let tokens_done = (part * tokens as f64) as usize;
            recorder.add(EventKind::Prompt { tokens_done, tokens }, begin, Instant::now());
        }
    }

    /// Tells whoever wants to know what was computed meanwhile.
    pub(crate) fn update(&self, reads: Option<&dyn Reads>) {
        self.state.lock().update(reads);
    }

    /// A pinned bundle is used.
    pub(crate) fn record_pinned(&self, idx: BundleIdx) {
        if let Some(meter) = &mut self.state.lock().meter {
            meter.pinned(idx);
        }
    }

    /// A streamed bundle is there and will be computed with; what is to be dropped with its slot.
    pub(crate) fn record_streamed(&self, idx: BundleIdx) -> Option<SlotReleaseTimer> {
        let meter = &mut self.state.lock().meter;
        meter.as_mut().map(|meter| meter.streamed(idx))
    }

    /// Nothing computes any more.
    pub(crate) fn mark_idle(&self) {
        self.state.lock().mark_idle();
    }

    /// Computing waited for a bundle.
    pub(crate) fn record_stall(&self, idx: BundleIdx, begin: Instant) {
        let State { stall, recorder, .. } = &mut *self.state.lock();
        let end = Instant::now();
        *stall += end - begin;
        recorder.add(EventKind::Wait { bundle: idx.0 }, begin, end);
    }

    /// A bundle was read.
    pub(crate) fn record_read(&self, idx: BundleIdx, bytes: u64, submitted: Instant, ended: Instant) {
        self.state.lock().recorder.add(EventKind::Read { bundle: idx.0, bytes }, submitted, ended);
    }

    /// How long computing has waited for reads.
    pub(crate) fn stall(&self) -> Duration {
        self.state.lock().stall
    }

    /// What the controller has learned; `None` if there is none.
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
