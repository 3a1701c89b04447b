//! Experts that are read before their layer asks for them.
//!
//! What a layer's router will say is guessed by what it would say now, of the hidden states that are sent to the experts of the
//! layer before. Guesses are read when nothing else is to be read, into slots that are there for them, and change neither who
//! is held nor what is computed.

use std::time::Instant;

use flash_io::Reader;
use flash_sched::Lookahead;

use super::{Experts, Load, Mixture};
use crate::ModelError;
use crate::nn::layer::Routed;

/// What the next router would say now.
#[derive(Debug)]
pub(crate) struct PredictedRouting<'a> {
    pub layer_idx: usize,
    pub mixture: &'a Mixture,
    /// Of a single token.
    pub routed: Routed,
}

/// What became of guesses so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct AheadTraffic {
    /// Experts that were read, or begun to be read, before their layer asked for them.
    pub guessed: u64,
    /// Those of them that it asked for.
    pub right: u64,
    /// Experts that had to be read for layers for which guesses were made.
    pub sought: u64,
    /// What part of a token's time guesses saved in the last trial, if there was one.
    pub gain: Option<f64>,
}

impl AheadTraffic {
    /// What part of the guesses was right.
    pub fn precision(&self) -> Option<f64> {
        (self.guessed > 0).then(|| self.right as f64 / self.guessed as f64)
    }

    /// What part of the experts that had to be read was guessed.
    pub fn recall(&self) -> Option<f64> {
        (self.sought > 0).then(|| self.right as f64 / self.sought as f64)
    }
}

/// The guesses for one layer, and whether more are made.
#[derive(Debug, Default)]
pub(super) struct ExpertLookahead {
    trial: Lookahead,
    /// The layer that guesses were made for.
    layer_idx: Option<usize>,
    loads: Vec<Load>,
    begun: Option<Instant>,
    traffic: AheadTraffic,
}

impl ExpertLookahead {
    /// Whether guesses are made for the token that passes.
    pub(super) fn is_enabled(&self) -> bool {
        self.begun.is_some() && self.trial.guesses()
    }

    pub(super) fn traffic(&self) -> AheadTraffic {
        AheadTraffic { gain: self.trial.gain(), ..self.traffic }
    }

    /// A single token begins to pass.
    pub(super) fn begin_token(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// A pass has ended. It counts if it was a token's, and is `like_others`: whole, and not faster or slower for another reason.
    pub(super) fn end_pass(&mut self, like_others: bool, reader: &Reader) {
        if let Some(time) = self.begun.take().as_ref().map(Instant::elapsed)
            && like_others
        {
            self.trial.observe(time);
        }
        self.clear(reader);
    }

    /// Guesses were made for that layer, and these are being read.
    pub(super) fn set_loads(&mut self, layer_idx: usize, loads: Vec<Load>) {
        self.traffic.guessed += loads.len() as u64;
        (self.layer_idx, self.loads) = (Some(layer_idx), loads);
    }

    /// The guesses that a layer wants, which has to read `missing`; the others are given up.
    pub(super) fn take(&mut self, layer_idx: usize, missing: &[usize], reader: &Reader) -> Vec<Load> {
        if self.layer_idx != Some(layer_idx) {
            self.clear(reader);
            return Vec::new();
        }
        self.layer_idx = None;
        let loads = std::mem::take(&mut self.loads).into_iter();
        let (right, wrong): (Vec<Load>, Vec<Load>) =
            loads.partition(|load| missing.contains(&load.expert_idx));
        wrong.into_iter().for_each(|load| reader.give_up(load.ticket));
        right.iter().for_each(|load| reader.want(&load.ticket));
        self.traffic.right += right.len() as u64;
        self.traffic.sought += missing.len() as u64;
        right
    }

    /// Gives up all guesses.
    pub(super) fn clear(&mut self, reader: &Reader) {
        self.layer_idx = None;
        self.loads.drain(..).for_each(|load| reader.give_up(load.ticket));
    }
}

impl Experts {
    /// Begins to read what the next layer would want now and has not, as far as there are slots for that.
    pub(super) fn read_ahead(&mut self, predicted: &PredictedRouting<'_>) -> Result<(), ModelError> {
        let PredictedRouting { layer_idx, mixture, routed } = predicted;
        let (logits, correction) = routed.scores()?;
        let choices = mixture.router.choose(logits, correction).into_iter().map(|choice| choice.expert_idx);
        let mut missing: Vec<usize> =
            choices.filter(|expert_idx| !self.resident.is_admitted(*layer_idx, *expert_idx)).collect();
        missing.truncate(self.plan.ahead_slots(self.pool.n_slots()));
        let waiting_bytes = mixture.queued_bytes(missing.len());
        let mut loads = Vec::new();
        for expert_idx in missing {
            let Some(slot) = self.pool.try_acquire() else { break };
            let bundle = mixture.bundle(expert_idx);
            let ticket = bundle.submit_speculative(waiting_bytes, &self.reader, slot);
            loads.push(Load { expert_idx, bundle, ticket });
        }
        self.ahead.set_loads(*layer_idx, loads);
        Ok(())
    }
}
