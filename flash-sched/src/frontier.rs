//! Pareto frontier of residencies: the fastest one for every budget.
//!
//! Memory is spent on pinned bundles, which are never read again, or on slots, which let reads run ahead. [`predict`]
//! gives the time per token of a combination. The combinations are evaluated once, for all budgets:
//!
//! 1. Bundles of about equal size form a *class* (attention blocks, MLPs, tiles of the head). A *choice* is the number
//!    of pinned bundles of each class, spread evenly over the class, and the number of slots. It needs the bytes of the
//!    pinned bundles and of its slots, each as large as the largest streamed bundle.
//! 2. Of all choices ordered by memory need, the *frontier* keeps each one that is faster than the one kept before. A
//!    budget gets the last choice that fits.
//!
//! By construction, a larger budget is never predicted to be slower. It may stream more, where latency is the limit and
//! the memory of a pinned bundle is better spent on slots: there, being faster and streaming no more exclude each
//! other. `tests/frontier.rs` shows by brute force that no other pinned set or number of slots is more than 1 % faster.
//!
//! [`predict`]: crate::predict()

mod moves;

use std::cmp::Ordering;
use std::time::Duration;

use crate::plan::{BelowFloor, PlanRequest, ResidencyPlan};
use crate::predict::{Disk, Pipeline, Prediction, Speeds, predict};
use crate::spread::{even, spread};

use moves::{ClassSplit, moves};

/// Minimum relative gain for which more memory changes the choice: predictions are not more accurate than that.
const GAIN: f64 = 0.002;
/// Relative width of a class below its largest size: alignment makes equal layers differ by some OS pages.
const CLASS_WIDTH: f64 = 1.0 / 32.0;
/// Maximum number of classes, because every combination of their counts is a choice. Classes are widened until this
/// holds.
const CLASSES_MAX: usize = 3;
/// Total simulated bundle steps to evaluate counts of classes: about a tenth of a second. Models with more bundles and
/// classes get fewer counts to choose from.
const STEPS_MAX: usize = 40_000_000;
/// Pinned sets regardless of class: numbers of bundles that are evaluated, at equal distances. A budget between two of
/// them leaves up to a 200th of the model's memory unused.
const SPREAD_COUNTS: usize = 200;
/// The same, at least, of models with so many bundles that [`STEPS_MAX`] limits the counts.
const SPREAD_COUNTS_MIN: usize = 16;
/// Total simulated bundle steps to improve the placement of pinned bundles.
const PLACEMENT_STEPS_MAX: usize = 10_000_000;
/// Typical steps per bundle of evaluating a pinned set: four numbers of slots until one reaches the bound, and four
/// tokens until the pipeline is periodic.
const STEPS_USUAL: usize = 4 * STEPS_A_TRIAL;
const STEPS_A_TRIAL: usize = 4;
/// Minimum relative gain of a move, so that the search terminates.
const MOVE_GAIN: f64 = 1e-4;
/// A token within this ratio of its bound gains nothing from more slots.
const AT_BOUND: f64 = 1.0001;
const PLACEMENTS: [Placement; 5] =
    [Placement::Nested, Placement::Even(0), Placement::Even(1), Placement::Even(2), Placement::Even(3)];
/// Candidate numbers of slots. More than the last one keep no known disk busier.
const SLOTS: [usize; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64];

/// The fastest residencies of a model on a machine, for every budget.
#[derive(Debug, Clone)]
pub struct Frontier {
    bundle_bytes: Vec<u64>,
    compute: Vec<Duration>,
    disk: Disk,
    n_slots_min: usize,
    classes: Vec<Vec<usize>>,
    /// Choices on the frontier, by growing memory need.
    choices: Vec<Choice>,
}

/// A residency plan with its predicted time per token.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TimedPlan {
    /// The residency. Its number of slots is also the prefetch depth.
    pub plan: ResidencyPlan,
    /// The predicted time per token.
    pub prediction: Prediction,
}

#[derive(Debug, Clone)]
struct Choice {
    pins: PinnedSet,
    n_slots: usize,
    slot_bytes: u64,
    pinned_bytes: u64,
    need_bytes: u64,
    token_s: f64,
    /// Lower bound for any placement and number of slots.
    bound_s: f64,
}

/// A set of pinned bundles.
#[derive(Debug, Clone)]
enum PinnedSet {
    /// The first bundles in the order of [`spread`], regardless of class.
    Spread(usize),
    /// A count for each class, with a placement.
    Classes(Vec<usize>, Placement),
    /// An explicit set.
    Set(Vec<bool>),
}

/// Placement of the pinned bundles of a class within it.
#[derive(Debug, Clone, Copy)]
enum Placement {
    /// In the order of [`spread`], so that smaller sets are subsets of larger ones.
    Nested,
    /// Maximally even. Classes whose bit is set are shifted by half a gap, so that classes can alternate.
    Even(u8),
}

impl Frontier {
    /// Computes the frontier of a model. `n_slots_min` is the minimum number of slots of a plan and, as in
    /// [`PlanRequest`], determines the floor.
    ///
    /// Takes at most a fifth of a second.
    ///
    /// # Panics
    /// If `n_slots_min` is 0, or `bundle_bytes` and `speeds.compute` differ in length.
    pub fn new(bundle_bytes: &[u64], n_slots_min: usize, speeds: Speeds<'_>) -> Self {
        assert!(n_slots_min > 0, "streaming needs a slot");
        let pipeline = Pipeline::new(bundle_bytes, &speeds);
        let classes = classes(bundle_bytes);
        let mut frontier = Self {
            bundle_bytes: bundle_bytes.to_vec(),
            compute: speeds.compute.to_vec(),
            disk: speeds.disk,
            n_slots_min,
            classes,
            choices: Vec::new(),
        };
        let mut choices = Vec::new();
        for pins in frontier.pins() {
            let pinned = frontier.pinned(&pins);
            frontier.push_choices(&pipeline, &pins, &pinned, &mut choices);
        }
        let mut steps_left = PLACEMENT_STEPS_MAX;
        for choice in promising(&mut choices) {
            frontier.improve_placement(&pipeline, choice, &mut steps_left);
        }
        frontier.choices = pareto_front(choices);
        frontier
    }

    /// Returns the fastest plan for a budget of which `fixed_bytes` are taken by everything but bundles.
    ///
    /// # Errors
    /// [`BelowFloor`] with the floor, as [`plan`](crate::plan()).
    pub fn plan(&self, fixed_bytes: u64, budget_bytes: u64) -> Result<TimedPlan, BelowFloor> {
        let request = PlanRequest {
            bundle_bytes: &self.bundle_bytes,
            fixed_bytes,
            budget_bytes,
            n_slots: self.n_slots_min,
        };
        let plan = crate::plan::plan(&request)?;
        let room_bytes = budget_bytes - fixed_bytes;
        // Every budget from the floor up has room for the first choice, which pins nothing.
        let n_fitting = self.choices.partition_point(|choice| choice.need_bytes <= room_bytes);
        let Some(choice) = self.choices[..n_fitting].last() else { return Ok(self.timed(plan)) };
        Ok(self.timed(ResidencyPlan {
            pinned: self.pinned(&choice.pins),
            n_slots: choice.n_slots,
            slot_bytes: choice.slot_bytes,
            pinned_bytes: choice.pinned_bytes,
            streamed_bytes: plan.pinned_bytes + plan.streamed_bytes - choice.pinned_bytes,
            floor_bytes: plan.floor_bytes,
            total_bytes: fixed_bytes + choice.need_bytes,
        }))
    }

    fn timed(&self, plan: ResidencyPlan) -> TimedPlan {
        let speeds = Speeds { compute: &self.compute, disk: self.disk };
        let prediction = predict(&self.bundle_bytes, &plan.pinned, plan.n_slots, &speeds);
        TimedPlan { plan, prediction }
    }

    /// Returns the candidate pinned sets, as many as the step budget allows.
    fn pins(&self) -> Vec<PinnedSet> {
        let n = self.bundle_bytes.len();
        let steps = STEPS_USUAL * n.max(1);
        let n_sets: usize = self.classes.iter().map(|class| class.len() + 1).product();
        // Candidate counts of a class are `stride` apart.
        let stride = (1..=n.max(1))
            .find(|stride| {
                let n_counts = |class: &Vec<usize>| class.len().div_ceil(*stride) + 1;
                PLACEMENTS.len() * steps * self.classes.iter().map(n_counts).product::<usize>() <= STEPS_MAX
            })
            .unwrap_or(n_sets);
        let mut sets = vec![Vec::new()];
        for class in &self.classes {
            let counts = (0..class.len()).step_by(stride).chain([class.len()]);
            let with = |set: &Vec<usize>, count| set.iter().copied().chain([count]).collect();
            sets = counts.flat_map(|count| sets.iter().map(move |set| with(set, count))).collect();
        }
        let of_classes = PLACEMENTS
            .into_iter()
            .flat_map(|placement| sets.iter().map(move |set| PinnedSet::Classes(set.clone(), placement)));
        let n_counts = (STEPS_MAX / steps).clamp(SPREAD_COUNTS_MIN, SPREAD_COUNTS);
        let spread_stride = n.div_ceil(n_counts).max(1);
        (0..=n).step_by(spread_stride).map(PinnedSet::Spread).chain(of_classes).collect()
    }

    /// Returns whether each bundle is pinned.
    fn pinned(&self, pins: &PinnedSet) -> Vec<bool> {
        let mut pinned = vec![false; self.bundle_bytes.len()];
        match pins {
            PinnedSet::Spread(count) => {
                spread(pinned.len()).take(*count).for_each(|index| pinned[index] = true);
            }
            PinnedSet::Set(set) => pinned.clone_from(set),
            PinnedSet::Classes(counts, placement) => {
                for (class_idx, (class, &count)) in self.classes.iter().zip(counts).enumerate() {
                    let mut pin = |member: usize| pinned[class[member]] = true;
                    match placement {
                        Placement::Nested => spread(class.len()).take(count).for_each(&mut pin),
                        Placement::Even(moved) => {
                            let phase = if moved >> class_idx & 1 == 1 { 0.5 } else { 0.0 };
                            even(class.len(), count, phase).for_each(&mut pin);
                        }
                    }
                }
            }
        }
        pinned
    }

    /// Local search: moves pinned bundles within their class while that makes a token faster. It matters where reading
    /// and compute take about equal time and slots are few: then one gap shorter by a bundle changes the result.
    fn improve_placement(&self, pipeline: &Pipeline, choice: &mut Choice, steps_left: &mut usize) {
        let mut pinned = self.pinned(&choice.pins);
        let mut is_local_optimum = false;
        while !is_local_optimum {
            is_local_optimum = true;
            for swaps in moves(&self.split_classes(&pinned)) {
                let steps = STEPS_A_TRIAL * pinned.len();
                if choice.token_s <= choice.bound_s * AT_BOUND || *steps_left < steps {
                    return;
                }
                // An earlier move may have invalidated this one.
                if swaps.iter().any(|&(from, to)| !pinned[from] || pinned[to]) {
                    continue;
                }
                *steps_left -= steps;
                swaps.iter().for_each(|&(from, to)| pinned.swap(from, to));
                let moved = self.choice(pipeline, PinnedSet::Set(Vec::new()), &pinned, choice.n_slots);
                if moved.token_s < choice.token_s * (1.0 - MOVE_GAIN) && moved.need_bytes <= choice.need_bytes
                {
                    *choice = Choice { pins: PinnedSet::Set(pinned.clone()), ..moved };
                    is_local_optimum = false;
                } else {
                    swaps.iter().rev().for_each(|&(from, to)| pinned.swap(from, to));
                }
            }
        }
    }

    /// Splits each class into its pinned and its other bundles.
    fn split_classes(&self, pinned: &[bool]) -> Vec<ClassSplit> {
        let split_classes = |class: &Vec<usize>| {
            let (pinned, free) = class.iter().partition(|&&index| pinned[index]);
            ClassSplit { pinned, free }
        };
        self.classes.iter().map(split_classes).collect()
    }

    fn choice(&self, pipeline: &Pipeline, pins: PinnedSet, pinned: &[bool], n_slots: usize) -> Choice {
        let bytes = || self.bundle_bytes.iter().zip(pinned);
        let pinned_bytes = bytes().filter(|(_, pinned)| **pinned).map(|(bytes, _)| bytes).sum();
        let slot_bytes = bytes().filter(|(_, pinned)| !**pinned).map(|(bytes, _)| *bytes).max().unwrap_or(0);
        let need_bytes = pinned_bytes + n_slots as u64 * slot_bytes;
        let token_s = pipeline.token_s(pinned, n_slots);
        let bound_s = pipeline.bound_s(pinned);
        Choice { pins, n_slots, slot_bytes, pinned_bytes, need_bytes, token_s, bound_s }
    }

    /// Adds choices of a pinned set with every useful number of slots.
    fn push_choices(
        &self,
        pipeline: &Pipeline,
        pins: &PinnedSet,
        pinned: &[bool],
        choices: &mut Vec<Choice>,
    ) {
        if pinned.iter().all(|&pinned| pinned) {
            choices.push(self.choice(pipeline, pins.clone(), pinned, 0));
            return;
        }
        let all_bytes: u64 = self.bundle_bytes.iter().sum();
        let mut least_s = f64::INFINITY;
        let n_slots = SLOTS.into_iter().filter(|&n_slots| n_slots > self.n_slots_min);
        for n_slots in [self.n_slots_min].into_iter().chain(n_slots) {
            let choice = self.choice(pipeline, pins.clone(), pinned, n_slots);
            if choice.need_bytes >= all_bytes {
                // Everything pinned would fit into that.
                break;
            }
            let is_at_bound = choice.token_s <= choice.bound_s * AT_BOUND;
            if choice.token_s < least_s {
                least_s = choice.token_s;
                choices.push(choice);
            }
            if is_at_bound {
                break;
            }
        }
    }
}

/// Returns the choices that would be on the frontier if they reached their lower bound.
fn promising(choices: &mut [Choice]) -> impl Iterator<Item = &mut Choice> {
    choices.sort_by(Choice::order);
    let mut best_s = f64::INFINITY;
    choices.iter_mut().filter(move |choice| {
        let is_promising = choice.bound_s < best_s * (1.0 - GAIN);
        best_s = best_s.min(choice.token_s);
        is_promising
    })
}

/// Returns the choices on the frontier, by growing memory need.
fn pareto_front(mut choices: Vec<Choice>) -> Vec<Choice> {
    choices.sort_by(Choice::order);
    let mut kept: Vec<Choice> = Vec::new();
    for choice in choices {
        if kept.last().is_none_or(|kept| choice.improves(kept)) {
            kept.push(choice);
        }
    }
    kept
}

impl Choice {
    /// Orders by need, then best first.
    fn order(&self, other: &Self) -> Ordering {
        let need = self.need_bytes.cmp(&other.need_bytes);
        need.then(self.token_s.total_cmp(&other.token_s)).then(other.pinned_bytes.cmp(&self.pinned_bytes))
    }

    /// Whether the choice justifies its additional memory over `kept`: it is faster, or streams less in the same time.
    fn improves(&self, kept: &Self) -> bool {
        self.token_s < kept.token_s * (1.0 - GAIN)
            || self.token_s <= kept.token_s && self.pinned_bytes > kept.pinned_bytes
    }
}

/// Groups the bundle indices into size classes, largest first; indices within a class are in execution order.
fn classes(bundle_bytes: &[u64]) -> Vec<Vec<usize>> {
    let mut by_size: Vec<usize> = (0..bundle_bytes.len()).collect();
    by_size.sort_by_key(|&index| std::cmp::Reverse(bundle_bytes[index]));
    let mut width = CLASS_WIDTH;
    loop {
        let mut classes: Vec<Vec<usize>> = Vec::new();
        let mut least_bytes = f64::INFINITY;
        for &index in &by_size {
            let bytes = bundle_bytes[index] as f64;
            match classes.last_mut() {
                Some(class) if bytes >= least_bytes => class.push(index),
                _ => {
                    classes.push(vec![index]);
                    least_bytes = bytes * (1.0 - width);
                }
            }
        }
        if classes.len() <= CLASSES_MAX {
            for class in &mut classes {
                class.sort_unstable();
            }
            return classes;
        }
        width = (2.0 * width).min(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_sizes_form_a_class_in_execution_order() {
        assert_eq!(classes(&[100, 40, 99, 40, 100]), [vec![0, 2, 4], vec![1, 3]]);
        assert!(classes(&[]).is_empty());
    }

    #[test]
    fn classes_are_widened_until_there_are_few() {
        let sizes: Vec<u64> = (1..50).map(|k| k * k).collect();
        let classes = classes(&sizes);
        assert!(classes.len() <= CLASSES_MAX);
        assert_eq!(classes.iter().map(Vec::len).sum::<usize>(), sizes.len());
    }
}
