//! From a router's scores to the experts of each token.

use crate::ModelError;
use crate::checkpoint::config::Config;

/// How a layer chooses experts.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    /// Experts of a token.
    pub top_k: usize,
    /// Whether the scores of a token's experts are made to add up to 1.
    pub normalised: bool,
    pub scoring: Scoring,
}

/// What an expert's score is made of, which becomes the weight of its output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scoring {
    /// Its part of the softmax over all.
    Softmax,
    /// The sigmoid of its own logit. Experts are chosen by that and a correction that the layer may have for each, out of the best
    /// groups.
    Sigmoid {
        groups: Groups,
        /// What scores are multiplied by in the end.
        scale: f32,
    },
}

/// Runs of experts, each as long as the next, of which the best are chosen from: by the sum of their two best experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Groups {
    pub n_groups: usize,
    /// How many are chosen from.
    pub n_kept: usize,
}

/// An expert that a token takes, and what its output is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub expert_idx: usize,
    pub weight: f32,
}

/// What keeps a sum of scores that all are zero from dividing by it.
const LEAST_SUM: f32 = 1e-20;

impl Router {
    /// # Errors
    /// [`ModelError::ConfigField`] for a number of experts that no token can have, or groups that there cannot be.
    pub(crate) fn new(
        top_k: usize,
        n_experts: usize,
        normalised: bool,
        scoring: Scoring,
        config: &Config,
    ) -> Result<Self, ModelError> {
        if !(1..=n_experts).contains(&top_k) {
            let expected = "it must be at least 1, and at most the number of experts";
            return Err(config.field_error("num_experts_per_tok", &top_k, expected));
        }
        if let Scoring::Sigmoid { groups, .. } = scoring {
            groups.check(n_experts, config)?;
        }
        Ok(Self { top_k, normalised, scoring })
    }

    /// The experts of a token, by their logits, in the order of their indices. Of equal ones the lower index wins.
    ///
    /// On the host, in f32: experts have to be asked for here anyway, and MLX's order of equal scores is not its to keep.
    pub(crate) fn choose(&self, logits: &[f32], correction: Option<&[f32]>) -> Vec<Choice> {
        let (groups, scale) = match self.scoring {
            Scoring::Softmax => return self.by_softmax(logits),
            Scoring::Sigmoid { groups, scale } => (groups, scale),
        };
        let scores: Vec<f32> = logits.iter().map(|logit| sigmoid(*logit)).collect();
        let mut corrected = scores.clone();
        for (score, correction) in corrected.iter_mut().zip(correction.unwrap_or(&[])) {
            *score += correction;
        }
        groups.drop_worst(&mut corrected);
        let chosen = self.best(&corrected);
        let sum = if self.normalised && self.top_k > 1 {
            chosen.iter().map(|idx| scores[*idx]).sum::<f32>() + LEAST_SUM
        } else {
            1.0
        };
        chosen.into_iter().map(|idx| Choice { expert_idx: idx, weight: scores[idx] / sum * scale }).collect()
    }

    fn by_softmax(&self, logits: &[f32]) -> Vec<Choice> {
        let chosen = self.best(logits);
        // What the softmax is the same without, but does not overflow with.
        let max = chosen.iter().map(|idx| logits[*idx]).fold(f32::NEG_INFINITY, f32::max);
        let exp = |idx: &usize| (logits[*idx] - max).exp();
        let sum: f32 = if self.normalised {
            chosen.iter().map(exp).sum()
        } else {
            (0..logits.len()).map(|idx| exp(&idx)).sum()
        };
        chosen.iter().map(|idx| Choice { expert_idx: *idx, weight: exp(idx) / sum }).collect()
    }

    /// Who has the greatest of `scores`, in order.
    fn best(&self, scores: &[f32]) -> Vec<usize> {
        let mut best = greatest(scores, self.top_k);
        best.sort_unstable();
        best
    }
}

impl Groups {
    fn check(self, n_experts: usize, config: &Config) -> Result<(), ModelError> {
        let Self { n_groups, n_kept } = self;
        let two_each = n_groups == 1 || n_groups > 1 && n_experts >= 2 * n_groups;
        if !two_each || !n_experts.is_multiple_of(n_groups) {
            let expected = "groups must be as large as each other, and of two experts at least";
            return Err(config.field_error("n_group", &n_groups, expected));
        }
        if !(1..=n_groups).contains(&n_kept) {
            let expected = "it must be at least 1, and at most the number of groups";
            return Err(config.field_error("topk_group", &n_kept, expected));
        }
        Ok(())
    }

    /// Makes the scores in all but the best groups zero: what is lower than that, in the best, is chosen after them, as in
    /// mlx-lm.
    fn drop_worst(self, scores: &mut [f32]) {
        if self.n_groups <= 1 {
            return;
        }
        let n_each = scores.len() / self.n_groups;
        let of_group =
            |scores: &[f32]| -> f32 { greatest(scores, 2).into_iter().map(|idx| scores[idx]).sum() };
        let by_group: Vec<f32> = scores.chunks_exact(n_each).map(of_group).collect();
        let kept = greatest(&by_group, self.n_kept);
        for (group_idx, scores) in scores.chunks_exact_mut(n_each).enumerate() {
            if !kept.contains(&group_idx) {
                scores.fill(0.0);
            }
        }
    }
}

/// Where the `n` greatest are, in no order. Of equal ones the lower index is greater.
fn greatest(values: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let by_value = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    if (1..order.len()).contains(&n) {
        order.select_nth_unstable_by(n - 1, by_value);
    }
    order.truncate(n);
    order
}

/// As MLX has it: what is near 1 is rounded likewise.
fn sigmoid(logit: f32) -> f32 {
    let small = 1.0 / (1.0 + logit.abs().exp());
    if logit < 0.0 { small } else { 1.0 - small }
}

/// What tokens take of a layer's experts.
#[derive(Debug)]
pub(crate) struct Routes {
    /// By token, each in the order of the experts.
    pub by_token: Vec<Vec<Choice>>,
    /// The tokens of each expert that has any, in order.
    pub by_expert: Vec<(usize, Vec<u32>)>,
}

impl Routes {
    /// Of the logits of each token, `[n, n_experts]`, and the correction of each expert, if there is one.
    ///
    /// # Errors
    /// [`ModelError::RouterScore`] for a logit or correction that is NaN, and for logits that no softmax can be taken of: one
    /// that is +∞, or all −∞. An expert at −∞ among others has a weight of zero; sigmoids take both infinities.
    pub(crate) fn new(
        layer_idx: usize,
        router: &Router,
        logits: &[f32],
        correction: Option<&[f32]>,
        n_experts: usize,
    ) -> Result<Self, ModelError> {
        let fault = |expert_idx: usize, score: f32| ModelError::RouterScore { layer_idx, expert_idx, score };
        let rows = logits.chunks_exact(n_experts);
        for scores in rows.clone().chain(correction) {
            if let Some(expert_idx) = scores.iter().position(|score| score.is_nan()) {
                return Err(fault(expert_idx, scores[expert_idx]));
            }
        }
        if router.scoring == Scoring::Softmax {
            for scores in rows.clone() {
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                if max.is_infinite() {
                    return Err(fault(scores.iter().position(|score| *score == max).unwrap_or(0), max));
                }
            }
        }
        let choose = |logits| router.choose(logits, correction);
        let by_token: Vec<_> = rows.map(choose).collect();
        let mut tokens = vec![Vec::new(); n_experts];
        for (token, choices) in (0..).zip(&by_token) {
            choices.iter().for_each(|choice| tokens[choice.expert_idx].push(token));
        }
        let by_expert = tokens.into_iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()).collect();
        Ok(Self { by_token, by_expert })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(top_k: usize, normalised: bool) -> Router {
        Router { top_k, normalised, scoring: Scoring::Softmax }
    }

    fn sigmoid_router(top_k: usize, normalised: bool, groups: Groups, scale: f32) -> Router {
        Router { top_k, normalised, scoring: Scoring::Sigmoid { groups, scale } }
    }

    /// All experts in one.
    const ONE: Groups = Groups { n_groups: 1, n_kept: 1 };

    fn indices(choices: &[Choice]) -> Vec<usize> {
        choices.iter().map(|choice| choice.expert_idx).collect()
    }

    #[test]
    fn weights_of_the_chosen_are_their_part_of_the_softmax() {
        let scores = [0.0, 2.0, -1.0, 1.0];
        let exps: Vec<f32> = scores.iter().map(|score: &f32| score.exp()).collect();
        for (normalised, sum) in [(true, exps[1] + exps[3]), (false, exps.iter().sum())] {
            let choices = router(2, normalised).choose(&scores, None);
            assert_eq!(indices(&choices), [1, 3]);
            for choice in choices {
                assert!((choice.weight - exps[choice.expert_idx] / sum).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn of_equal_scores_the_lower_index_wins() {
        let chosen = router(2, true).choose(&[1.0, 3.0, 1.0, 1.0], None);
        assert_eq!(indices(&chosen), [0, 1]);
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let chosen = router(1, false).choose(&[3e38, -3e38], None);
        assert_eq!(chosen, [Choice { expert_idx: 0, weight: 1.0 }]);
    }

    #[test]
    fn all_experts_may_be_chosen() {
        assert_eq!(router(3, true).choose(&[1.0, 2.0, 0.5], None).len(), 3);
        assert_eq!(router(9, true).choose(&[1.0, 2.0, 0.5], None).len(), 3);
    }

    #[test]
    fn routes_tell_each_expert_its_tokens() {
        let routes = Routes::new(0, &router(1, true), &[0.0, 1.0, 0.0, 5.0, 1.0, 0.0], None, 2).unwrap();
        assert_eq!(routes.by_expert, [(0, vec![2]), (1, vec![0, 1])]);
        assert_eq!(routes.by_token.len(), 3);
    }

    /// What is wrong with the logits of one token, and where.
    fn fault(router: &Router, logits: &[f32], correction: Option<&[f32]>) -> Option<(usize, f32)> {
        match Routes::new(7, router, logits, correction, logits.len()) {
            Err(ModelError::RouterScore { layer_idx: 7, expert_idx, score }) => Some((expert_idx, score)),
            Err(other) => panic!("{other:?}"),
            Ok(routes) => {
                let weights = routes.by_token.iter().flatten().map(|choice| choice.weight);
                assert!(weights.clone().all(f32::is_finite), "{:?}", weights.collect::<Vec<_>>());
                None
            }
        }
    }

    #[test]
    fn a_score_that_is_no_number_is_an_error() {
        let sigmoid = sigmoid_router(1, true, ONE, 1.0);
        for router in [router(1, true), router(2, false), sigmoid] {
            let (expert_idx, score) = fault(&router, &[0.0, f32::NAN], None).unwrap();
            assert!(expert_idx == 1 && score.is_nan());
            let (expert_idx, score) = fault(&router, &[0.0, 1.0], Some(&[f32::NAN, 0.0])).unwrap();
            assert!(expert_idx == 0 && score.is_nan());
        }
    }

    #[test]
    fn an_infinite_score_of_a_softmax_is_an_error_and_never_an_expert() {
        const INF: f32 = f32::INFINITY;
        for router in [router(2, true), router(2, false), router(3, true)] {
            assert_eq!(fault(&router, &[0.0, INF, 1.0], None), Some((1, INF)));
            assert_eq!(fault(&router, &[INF, -INF, INF], None), Some((0, INF)));
            assert_eq!(fault(&router, &[-INF; 3], None), Some((0, -INF)));
        }
    }

    #[test]
    fn an_expert_at_minus_infinity_has_no_weight() {
        for router in [router(2, true), router(2, false)] {
            let logits = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
            assert_eq!(fault(&router, &logits, None), None);
            let choices = router.choose(&logits, None);
            let weights: Vec<_> = choices.iter().map(|choice| (choice.expert_idx, choice.weight)).collect();
            assert_eq!(weights, [(0, 0.0), (1, 1.0)]);
        }
    }

    #[test]
    fn sigmoids_of_infinities_are_one_and_zero() {
        let router = sigmoid_router(2, false, ONE, 1.0);
        let logits = [f32::NEG_INFINITY, f32::INFINITY, 0.0];
        assert_eq!(fault(&router, &logits, None), None);
        let choices = router.choose(&logits, None);
        let weights: Vec<_> = choices.iter().map(|choice| (choice.expert_idx, choice.weight)).collect();
        assert_eq!(weights, [(1, 1.0), (2, 0.5)]);
    }

    #[test]
    fn sigmoids_are_the_weights_and_the_correction_only_chooses() {
        let logits = [0.0, 2.0, -1.0, 1.0];
        let scores = logits.map(|logit: f32| 1.0 / (1.0 + (-logit).exp()));
        for (normalised, sum) in [(false, 1.0), (true, scores[1] + scores[2])] {
            let router = sigmoid_router(2, normalised, ONE, 2.5);
            let choices = router.choose(&logits, Some(&[0.0, 0.0, 1.0, 0.0]));
            assert_eq!(indices(&choices), [1, 2]);
            for choice in choices {
                assert!((choice.weight - 2.5 * scores[choice.expert_idx] / sum).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn an_expert_alone_keeps_its_score() {
        let choices = sigmoid_router(1, true, ONE, 1.0).choose(&[0.0, -1.0], None);
        assert_eq!(choices, [Choice { expert_idx: 0, weight: 0.5 }]);
    }

    #[test]
    fn experts_come_from_the_groups_whose_two_best_are_best() {
        // The best expert is in the worst group.
        let logits = [3.0, -9.0, 1.0, 1.1, 0.9, 1.2, 0.5, 0.6];
        let groups = Groups { n_groups: 4, n_kept: 2 };
        assert_eq!(indices(&sigmoid_router(3, true, groups, 1.0).choose(&logits, None)), [2, 3, 5]);
        // Of equal groups the lower index wins.
        let chosen = sigmoid_router(2, true, Groups { n_kept: 1, ..groups }, 1.0).choose(&[0.0; 8], None);
        assert_eq!(indices(&chosen), [0, 1]);
    }

    #[test]
    fn a_dropped_group_stands_at_zero() {
        let groups = Groups { n_groups: 2, n_kept: 1 };
        let correction = [0.0, -0.9, -1.0, -1.0];
        let chosen = sigmoid_router(2, false, groups, 1.0).choose(&[0.0; 4], Some(&correction));
        assert_eq!(indices(&chosen), [0, 2]);
    }

    #[test]
    fn scores_of_zero_give_weights_of_zero() {
        let choices = sigmoid_router(2, true, ONE, 1.0).choose(&[-200.0; 3], None);
        assert!(choices.iter().all(|choice| choice.weight == 0.0));
    }
}
