//! The residency that makes a token fastest, for every budget.
//!
//! Memory can hold pinned bundles, which are not read any more, or slots, which let reads run ahead. [`predict`] tells
//! what a choice of both costs. Choices are made once, for all budgets:
//!
//! 1. Bundles of about the same size form a *class* (attention blocks, MLPs, tiles of the head). How many of each class
//!    are pinned, spread evenly over it, and how many slots there are, is a *choice*. It needs the bytes of what is pinned
//!    and of its slots, each as large as the largest streamed bundle.
//! 2. Of all choices by growing need, those are kept that are faster than the one kept before: the *frontier*. A budget
//!    gets the last choice that fits.
//!
//! A larger budget is therefore never predicted to be slower, by construction. It may stream more,
//! where the memory of a pinned bundle is worth more as slots because latency is what limits: there, being faster and
//! streaming no more exclude each other. That no other pinned set or number of slots is more than 1 % faster is shown by brute force in
//! `tests/frontier.rs`.
//!
//! [`predict`]: crate::predict()

use std::cmp::Ordering;
use std::time::Duration;

use crate::plan::{BelowFloor, PlanRequest, ResidencyPlan};
use crate::predict::{Disk, Pipeline, Prediction, Speeds, predict};
use crate::spread::{even, spread};

/// More memory must gain this much to change what is pinned: predictions are not better than that.
const GAIN: f64 = 0.002;
/// Sizes within this part of the largest one are a class: alignment makes equal layers differ by some OS pages.
const CLASS_WIDTH: f64 = 1.0 / 32.0;
/// Classes are widened until there are no more, for every combination of their counts is a choice.
const CLASSES_MAX: usize = 3;
/// Bundles that are followed through the pipeline, in all, to make a frontier: a tenth of a second or so. Models with more
/// bundles and classes get fewer counts to choose from.
const STEPS_MAX: usize = 40_000_000;
/// The same, to move what is pinned to better places.
const SETTLE_STEPS_MAX: usize = 10_000_000;
/// Steps that a pinned set usually takes for each of its bundles: four numbers of slots until one reaches the bound, and
/// four tokens until the pipeline repeats itself.
const STEPS_USUAL: usize = 4 * STEPS_A_TRIAL;
const STEPS_A_TRIAL: usize = 4;
/// Two bundles are moved at once if there are no more ways to do so.
const DOUBLE_MOVES_MAX: usize = 1024;
/// A pinned bundle is moved for a gain of this part of a token at least: so it ends.
const SETTLED: f64 = 1e-4;
/// A token this close to its bound, as a ratio, has nothing to gain from more slots.
const AT_BOUND: f64 = 1.0001;
const PLACEMENTS: [Placement; 5] =
    [Placement::Nested, Placement::Even(0), Placement::Even(1), Placement::Even(2), Placement::Even(3)];
/// Numbers of slots that are tried. More than the last one keep no known disk busier.
const SLOTS: [usize; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64];

/// The best residency of a model on a machine, for every budget.
#[derive(Debug, Clone)]
pub struct Frontier {
    bundle_bytes: Vec<u64>,
    compute: Vec<Duration>,
    disk: Disk,
    n_slots_min: usize,
    classes: Vec<Vec<usize>>,
    /// By growing need.
    choices: Vec<Choice>,
}

/// A plan, and what it is predicted to give.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TimedPlan {
    /// What stays and what streams. All slots are to be filled ahead: that is the prefetch depth.
    pub plan: ResidencyPlan,
    /// The time of a token with it.
    pub prediction: Prediction,
}

#[derive(Debug, Clone)]
struct Choice {
    pins: Pins,
    n_slots: usize,
    slot_bytes: u64,
    pinned_bytes: u64,
    need_bytes: u64,
    token_s: f64,
    /// What no placement and no number of slots makes faster.
    bound_s: f64,
}

/// What is pinned.
#[derive(Debug, Clone)]
enum Pins {
    /// So many bundles in the order of [`spread`], whatever their class.
    Spread(usize),
    /// So many of each class.
    Classes(Vec<usize>, Placement),
    /// These.
    Set(Vec<bool>),
}

/// How the pinned bundles of a class are spread over it.
#[derive(Debug, Clone, Copy)]
enum Placement {
    /// As [`spread`] does: the sets of growing counts contain each other.
    Nested,
    /// As evenly as can be; the classes whose bit is set are moved by half a gap, so that classes can take turns.
    Even(u8),
}

impl Frontier {
    /// Weighs the choices for a model. `n_slots_min` is the fewest slots that a plan may have: as in [`PlanRequest`], it
    /// makes the floor.
    ///
    /// Takes a tenth of a second at most.
    ///
    /// # Panics
    /// If `n_slots_min` is 0, or if there is not one compute time for each bundle.
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
        let mut steps_left = SETTLE_STEPS_MAX;
        for choice in promising(&mut choices) {
            frontier.settle(&pipeline, choice, &mut steps_left);
        }
        frontier.choices = best(choices);
        frontier
    }

    /// The best plan for a budget of which other things take `fixed_bytes`.
    ///
    /// # Errors
    /// [`BelowFloor`], with the floor: the same as that of [`plan`](crate::plan()).
    pub fn plan(&self, fixed_bytes: u64, budget_bytes: u64) -> Result<TimedPlan, BelowFloor> {
        let request = PlanRequest {
            bundle_bytes: &self.bundle_bytes,
            fixed_bytes,
            budget_bytes,
            n_slots: self.n_slots_min,
        };
        let plan = crate::plan::plan(&request)?;
        let room_bytes = budget_bytes - fixed_bytes;
        // The floor has room for the first: it pins nothing.
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

    /// All that may be pinned, as far as there are steps to weigh it.
    fn pins(&self) -> Vec<Pins> {
        let n = self.bundle_bytes.len();
        let steps = STEPS_USUAL * n.max(1);
        let n_sets: usize = self.classes.iter().map(|class| class.len() + 1).product();
        // Counts of each class are `stride` apart.
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
            .flat_map(|placement| sets.iter().map(move |set| Pins::Classes(set.clone(), placement)));
        (0..=n).step_by(stride).map(Pins::Spread).chain(of_classes).collect()
    }

    /// The same for each bundle.
    fn pinned(&self, pins: &Pins) -> Vec<bool> {
        let mut pinned = vec![false; self.bundle_bytes.len()];
        match pins {
            Pins::Spread(count) => {
                spread(pinned.len()).take(*count).for_each(|index| pinned[index] = true);
            }
            Pins::Set(set) => pinned.clone_from(set),
            Pins::Classes(counts, placement) => {
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

    /// Moves pinned bundles to other places in their class for as long as that makes a token faster. Where reading
    /// and compute take about the same time, and slots are few, a gap that is one bundle shorter tells.
    fn settle(&self, pipeline: &Pipeline, choice: &mut Choice, steps_left: &mut usize) {
        let mut pinned = self.pinned(&choice.pins);
        let mut is_settled = false;
        while !is_settled {
            is_settled = true;
            for swaps in moves(&self.places(&pinned)) {
                let steps = STEPS_A_TRIAL * pinned.len();
                if choice.token_s <= choice.bound_s * AT_BOUND || *steps_left < steps {
                    return;
                }
                // An earlier move may have been in the way of this one.
                if swaps.iter().any(|&(from, to)| !pinned[from] || pinned[to]) {
                    continue;
                }
                *steps_left -= steps;
                swaps.iter().for_each(|&(from, to)| pinned.swap(from, to));
                let moved = self.choice(pipeline, Pins::Set(Vec::new()), &pinned, choice.n_slots);
                if moved.token_s < choice.token_s * (1.0 - SETTLED) && moved.need_bytes <= choice.need_bytes {
                    *choice = Choice { pins: Pins::Set(pinned.clone()), ..moved };
                    is_settled = false;
                } else {
                    swaps.iter().rev().for_each(|&(from, to)| pinned.swap(from, to));
                }
            }
        }
    }

    /// The classes as they are pinned now.
    fn places(&self, pinned: &[bool]) -> Vec<Places> {
        let places = |class: &Vec<usize>| {
            let (pinned, free) = class.iter().partition(|&&index| pinned[index]);
            Places { pinned, free }
        };
        self.classes.iter().map(places).collect()
    }

    fn choice(&self, pipeline: &Pipeline, pins: Pins, pinned: &[bool], n_slots: usize) -> Choice {
        let bytes = || self.bundle_bytes.iter().zip(pinned);
        let pinned_bytes = bytes().filter(|(_, pinned)| **pinned).map(|(bytes, _)| bytes).sum();
        let slot_bytes = bytes().filter(|(_, pinned)| !**pinned).map(|(bytes, _)| *bytes).max().unwrap_or(0);
        let need_bytes = pinned_bytes + n_slots as u64 * slot_bytes;
        let token_s = pipeline.token_s(pinned, n_slots);
        let bound_s = pipeline.bound_s(pinned);
        Choice { pins, n_slots, slot_bytes, pinned_bytes, need_bytes, token_s, bound_s }
    }

    /// A pinned set with each number of slots that is of use.
    fn push_choices(&self, pipeline: &Pipeline, pins: &Pins, pinned: &[bool], choices: &mut Vec<Choice>) {
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
                // Everything fits into that.
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

/// The pinned bundles of a class, and those that are not.
#[derive(Debug)]
struct Places {
    pinned: Vec<usize>,
    free: Vec<usize>,
}

impl Places {
    fn n_moves(&self) -> usize {
        self.pinned.len() * self.free.len()
    }

    /// From each pinned bundle to each other place.
    fn moves(&self) -> impl Iterator<Item = (usize, usize)> {
        self.pinned.iter().flat_map(|&from| self.free.iter().map(move |&to| (from, to)))
    }
}

/// Each move within a class; behind these, two moves at once, if they are few. Large models have so many that they are
/// made one by one.
fn moves(classes: &[Places]) -> impl Iterator<Item = Vec<(usize, usize)>> {
    let pairs = classes.iter().enumerate().flat_map(|(idx, first)| {
        let seconds = classes[idx..].iter();
        seconds.map(move |second| (first, second))
    });
    let few = pairs.filter(|(first, second)| first.n_moves() * second.n_moves() <= DOUBLE_MOVES_MAX);
    let doubles = few.flat_map(|(first, second)| {
        first.moves().flat_map(|first| second.moves().map(move |second| vec![first, second]))
    });
    classes.iter().flat_map(Places::moves).map(|step| vec![step]).chain(doubles)
}

/// The choices that would be the best for their need if nothing but the bound held them up.
fn promising(choices: &mut [Choice]) -> impl Iterator<Item = &mut Choice> {
    choices.sort_by(Choice::order);
    let mut best_s = f64::INFINITY;
    choices.iter_mut().filter(move |choice| {
        let is_promising = choice.bound_s < best_s * (1.0 - GAIN);
        best_s = best_s.min(choice.token_s);
        is_promising
    })
}

/// The choices that are worth what they need, by growing need.
fn best(mut choices: Vec<Choice>) -> Vec<Choice> {
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
    /// By need; of those with the same need, the best first.
    fn order(&self, other: &Self) -> Ordering {
        let need = self.need_bytes.cmp(&other.need_bytes);
        need.then(self.token_s.total_cmp(&other.token_s)).then(other.pinned_bytes.cmp(&self.pinned_bytes))
    }

    /// Whether it is worth the memory that it needs beyond `kept`: it is faster, or streams less in the same time.
    fn improves(&self, kept: &Self) -> bool {
        self.token_s < kept.token_s * (1.0 - GAIN)
            || self.token_s <= kept.token_s && self.pinned_bytes > kept.pinned_bytes
    }
}

/// The indices of the bundles by size, largest first.
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
    fn about_equal_sizes_are_a_class_in_execution_order() {
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
