//! Routing: the top-k experts of each token, and their weights, from router logits.

use crate::ModelError;
use crate::checkpoint::config::Config;

/// The routing rule of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    /// Experts per token.
    pub top_k: usize,
    /// Whether the weights of a token's experts are normalized to a sum of 1.
    pub norm_topk_prob: bool,
    pub scoring: Scoring,
}

/// The function from router logits to scores, which become the weights of the experts' outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each logit. Experts are chosen by score plus the correction bias of the layer, if any, and only from
    /// the best groups.
    Sigmoid {
        groups: ExpertGroups,
        /// Factor on the final weights (`routed_scaling_factor`).
        scale: f32,
    },
}

/// Group-limited routing: experts form groups of equal size, ranked by the sum of their two best scores, and are chosen
/// from the best groups only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpertGroups {
    pub n_groups: usize,
    /// Number of groups that experts are chosen from (`topk_group`).
    pub n_kept: usize,
}

/// An expert chosen for a token, and the weight of its output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub expert_idx: usize,
    pub weight: f32,
}

/// Added to the sum of scores, against division by zero.
const SUM_EPSILON: f32 = 1e-20;

impl Router {
    /// Creates a router.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] if `top_k` or the groups do not fit the number of experts.
    pub(crate) fn new(
        top_k: usize,
        n_experts: usize,
        norm_topk_prob: bool,
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
        Ok(Self { top_k, norm_topk_prob, scoring })
    }

    /// Chooses the experts of a token from its logits, in order of index. Ties go to the lower index.
    ///
    /// Runs on the host, in f32: the host needs the indices to load the experts, and MLX does not specify its order of
    /// ties.
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
        groups.zero_worst(&mut corrected);
        let chosen = self.top_k_indices(&corrected);
        let sum = if self.norm_topk_prob && self.top_k > 1 {
            chosen.iter().map(|idx| scores[*idx]).sum::<f32>() + SUM_EPSILON
        } else {
            1.0
        };
        chosen.into_iter().map(|idx| Choice { expert_idx: idx, weight: scores[idx] / sum * scale }).collect()
    }

    fn by_softmax(&self, logits: &[f32]) -> Vec<Choice> {
        let chosen = self.top_k_indices(logits);
        // Subtracting the maximum keeps `exp` from overflowing.
        let max = chosen.iter().map(|idx| logits[*idx]).fold(f32::NEG_INFINITY, f32::max);
        let exp = |idx: &usize| (logits[*idx] - max).exp();
        let sum: f32 = if self.norm_topk_prob {
            chosen.iter().map(exp).sum()
        } else {
            (0..logits.len()).map(|idx| exp(&idx)).sum()
        };
        chosen.iter().map(|idx| Choice { expert_idx: *idx, weight: exp(idx) / sum }).collect()
    }

    /// Returns the indices of the `top_k` largest scores, in order of index.
    fn top_k_indices(&self, scores: &[f32]) -> Vec<usize> {
        let mut indices = largest(scores, self.top_k);
        indices.sort_unstable();
        indices
    }
}

impl ExpertGroups {
    fn check(self, n_experts: usize, config: &Config) -> Result<(), ModelError> {
        let Self { n_groups, n_kept } = self;
        let two_each = n_groups == 1 || n_groups > 1 && n_experts >= 2 * n_groups;
        if !two_each || !n_experts.is_multiple_of(n_groups) {
            let expected = "it must divide the number of experts into groups of at least two";
            return Err(config.field_error("n_group", &n_groups, expected));
        }
        if !(1..=n_groups).contains(&n_kept) {
            let expected = "it must be at least 1, and at most the number of groups";
            return Err(config.field_error("topk_group", &n_kept, expected));
        }
        Ok(())
    }

    /// Zeroes the scores outside of the best groups. As in mlx-lm, they then rank above negative scores of the best
    /// groups.
    fn zero_worst(self, scores: &mut [f32]) {
        if self.n_groups <= 1 {
            return;
        }
        let n_each = scores.len() / self.n_groups;
        let of_group =
            |scores: &[f32]| -> f32 { largest(scores, 2).into_iter().map(|idx| scores[idx]).sum() };
        let by_group: Vec<f32> = scores.chunks_exact(n_each).map(of_group).collect();
        let kept = largest(&by_group, self.n_kept);
        for (group_idx, scores) in scores.chunks_exact_mut(n_each).enumerate() {
            if !kept.contains(&group_idx) {
                scores.fill(0.0);
            }
        }
    }
}

/// Returns the indices of the `n` largest values, unordered. Ties go to the lower index.
fn largest(values: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let by_value = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    if (1..order.len()).contains(&n) {
        order.select_nth_unstable_by(n - 1, by_value);
    }
    order.truncate(n);
    order
}

/// Returns the sigmoid, rounded near 1 as in MLX.
fn sigmoid(logit: f32) -> f32 {
    let small = 1.0 / (1.0 + logit.abs().exp());
    if logit < 0.0 { small } else { 1.0 - small }
}

/// The routing of some tokens in a layer.
#[derive(Debug)]
pub(crate) struct Routes {
    /// Chosen experts of each token, in order of index.
    pub by_token: Vec<Vec<Choice>>,
    /// Tokens of each expert that has any, in order.
    pub by_expert: Vec<(usize, Vec<u32>)>,
}

impl Routes {
    /// Returns the tokens of an expert, in order.
    pub(crate) fn tokens_of(&self, expert_idx: usize) -> &[u32] {
        let at = self.by_expert.binary_search_by_key(&expert_idx, |(expert_idx, _)| *expert_idx);
        at.map_or(&[], |at| &self.by_expert[at].1)
    }

    /// Routes tokens by their logits, `[n, n_experts]`, and the correction of each expert, if any.
    ///
    /// # Errors
    /// [`ModelError::RouterScore`] for a logit or correction that is NaN, and for logits without a softmax: one that is
    /// +∞, or all −∞. An expert at −∞ among others has weight zero; sigmoids accept both infinities.
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
        let by_token: Vec<_> = rows.map(|logits| router.choose(logits, correction)).collect();
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

    fn router(top_k: usize, norm_topk_prob: bool) -> Router {
        Router { top_k, norm_topk_prob, scoring: Scoring::Softmax }
    }

    fn sigmoid_router(top_k: usize, norm_topk_prob: bool, groups: ExpertGroups, scale: f32) -> Router {
        Router { top_k, norm_topk_prob, scoring: Scoring::Sigmoid { groups, scale } }
    }

    /// A single group of all experts.
    const ONE: ExpertGroups = ExpertGroups { n_groups: 1, n_kept: 1 };

    fn indices(choices: &[Choice]) -> Vec<usize> {
        choices.iter().map(|choice| choice.expert_idx).collect()
    }

    #[test]
    fn weights_of_chosen_experts_are_softmax_probabilities() {
        let scores = [0.0, 2.0, -1.0, 1.0];
        let exps: Vec<f32> = scores.iter().map(|score: &f32| score.exp()).collect();
        for (norm_topk_prob, sum) in [(true, exps[1] + exps[3]), (false, exps.iter().sum())] {
            let choices = router(2, norm_topk_prob).choose(&scores, None);
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
    fn routes_list_the_tokens_of_each_expert() {
        let routes = Routes::new(0, &router(1, true), &[0.0, 1.0, 0.0, 5.0, 1.0, 0.0], None, 2).unwrap();
        assert_eq!(routes.by_expert, [(0, vec![2]), (1, vec![0, 1])]);
        assert_eq!(routes.by_token.len(), 3);
    }

    /// Returns the index and value of the score that is refused, if one is.
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
    fn a_nan_score_is_an_error() {
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
        for (norm_topk_prob, sum) in [(false, 1.0), (true, scores[1] + scores[2])] {
            let router = sigmoid_router(2, norm_topk_prob, ONE, 2.5);
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
        let groups = ExpertGroups { n_groups: 4, n_kept: 2 };
        assert_eq!(indices(&sigmoid_router(3, true, groups, 1.0).choose(&logits, None)), [2, 3, 5]);
        // Of equal groups the lower index wins.
        let chosen =
            sigmoid_router(2, true, ExpertGroups { n_kept: 1, ..groups }, 1.0).choose(&[0.0; 8], None);
        assert_eq!(indices(&chosen), [0, 1]);
    }

    #[test]
    fn scores_of_dropped_groups_are_zero_and_rank_above_negative_ones() {
        let groups = ExpertGroups { n_groups: 2, n_kept: 1 };
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
