//! From a router's scores to the experts of each token.

use crate::{Config, ModelError};

/// How a layer chooses experts.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    /// Experts of a token.
    pub top_k: usize,
    /// Whether the weights of a token's experts add up to 1. If not, they are their part of the softmax over all.
    pub normalised: bool,
}

/// An expert that a token takes, and what its output is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub expert_idx: usize,
    pub weight: f32,
}

impl Router {
    /// # Errors
    /// [`ModelError::ConfigField`] for a number of experts that no token can have.
    pub(crate) fn new(
        top_k: usize,
        n_experts: usize,
        normalised: bool,
        config: &Config,
    ) -> Result<Self, ModelError> {
        if !(1..=n_experts).contains(&top_k) {
            let expected = "it must be at least 1, and at most the number of experts";
            return Err(config.field_error("num_experts_per_tok", &top_k, expected));
        }
        Ok(Self { top_k, normalised })
    }

    /// The experts of a token, in the order of their indices. Of equal scores the lower index wins.
    ///
    /// On the host, in f32: experts have to be asked for here anyway, and MLX's order of equal scores is not its to keep.
    pub(crate) fn choose(&self, scores: &[f32]) -> Vec<Choice> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        let by_score = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        let top_k = self.top_k.min(order.len());
        if top_k > 0 && top_k < order.len() {
            order.select_nth_unstable_by(top_k - 1, by_score);
        }
        order.truncate(top_k);
        order.sort_unstable();
        // What the softmax is the same without, but does not overflow with.
        let max = order.iter().map(|idx| scores[*idx]).fold(f32::NEG_INFINITY, f32::max);
        let exp = |idx: &usize| (scores[*idx] - max).exp();
        let sum: f32 = if self.normalised {
            order.iter().map(exp).sum()
        } else {
            (0..scores.len()).map(|idx| exp(&idx)).sum()
        };
        order.iter().map(|idx| Choice { expert_idx: *idx, weight: exp(idx) / sum }).collect()
    }
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
    /// Of the scores of each token, `[n, n_experts]`.
    pub(crate) fn new(router: &Router, scores: &[f32], n_experts: usize) -> Result<Self, ModelError> {
        if scores.iter().any(|score| score.is_nan()) {
            return Err(ModelError::RouterNan);
        }
        let by_token: Vec<_> = scores.chunks_exact(n_experts).map(|scores| router.choose(scores)).collect();
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
        Router { top_k, normalised }
    }

    #[test]
    fn weights_of_the_chosen_are_their_part_of_the_softmax() {
        let scores = [0.0, 2.0, -1.0, 1.0];
        let exps: Vec<f32> = scores.iter().map(|score: &f32| score.exp()).collect();
        for (normalised, sum) in [(true, exps[1] + exps[3]), (false, exps.iter().sum())] {
            let choices = router(2, normalised).choose(&scores);
            assert_eq!(choices.iter().map(|choice| choice.expert_idx).collect::<Vec<_>>(), [1, 3]);
            for choice in choices {
                assert!((choice.weight - exps[choice.expert_idx] / sum).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn of_equal_scores_the_lower_index_wins() {
        let chosen = router(2, true).choose(&[1.0, 3.0, 1.0, 1.0]);
        assert_eq!(chosen.iter().map(|choice| choice.expert_idx).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let chosen = router(1, false).choose(&[3e38, -3e38]);
        assert_eq!(chosen, [Choice { expert_idx: 0, weight: 1.0 }]);
    }

    #[test]
    fn all_experts_may_be_chosen() {
        assert_eq!(router(3, true).choose(&[1.0, 2.0, 0.5]).len(), 3);
        assert_eq!(router(9, true).choose(&[1.0, 2.0, 0.5]).len(), 3);
    }

    #[test]
    fn routes_tell_each_expert_its_tokens() {
        let routes = Routes::new(&router(1, true), &[0.0, 1.0, 0.0, 5.0, 1.0, 0.0], 2).unwrap();
        assert_eq!(routes.by_expert, [(0, vec![2]), (1, vec![0, 1])]);
        assert_eq!(routes.by_token.len(), 3);
    }

    #[test]
    fn a_score_that_is_no_number_is_an_error() {
        assert!(matches!(Routes::new(&router(1, true), &[0.0, f32::NAN], 2), Err(ModelError::RouterNan)));
    }
}
