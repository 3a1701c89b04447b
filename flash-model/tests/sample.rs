//! Sampling against mlx-lm's filters and a plain reference; the distribution of samples; invalid input.

use std::fs;

use flash_model::sample::{Candidate, SampleError, Sampler, SamplerConfig};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Case>,
    argmax: Vec<Argmax>,
}

#[derive(Deserialize)]
struct Case {
    config: Settings,
    history: Vec<u32>,
    logits: Vec<f32>,
    processed: Vec<f32>,
    tokens: Vec<u32>,
    probabilities: Vec<f64>,
}

#[derive(Deserialize)]
struct Settings {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    repetition_window: usize,
}

#[derive(Deserialize)]
struct Argmax {
    logits: Vec<f32>,
    token: u32,
}

fn goldens() -> Goldens {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sample/goldens.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn sampler(config: SamplerConfig) -> Sampler {
    Sampler::new(config).unwrap()
}

/// Returns a configuration that samples the model's own distribution.
fn plain(seed: u64) -> SamplerConfig {
    SamplerConfig { temperature: 1.0, seed, ..SamplerConfig::default() }
}

fn sample_with(config: SamplerConfig, logits: &[f32]) -> Result<u32, SampleError> {
    sampler(config).sample(&mut logits.to_vec(), &[])
}

#[test]
fn candidates_are_those_of_mlx_lm() {
    let goldens = goldens();
    assert!(goldens.cases.len() > 20);
    for (index, case) in goldens.cases.iter().enumerate() {
        let Settings { temperature, top_k, top_p, min_p, repetition_penalty, repetition_window } =
            case.config;
        let config = SamplerConfig {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            repetition_window,
            seed: 0,
        };
        let mut logits = case.logits.clone();
        let mut sampler = sampler(config);
        let candidates = sampler.candidates(&mut logits, &case.history).unwrap();
        let tokens: Vec<u32> = candidates.iter().map(|candidate| candidate.token).collect();
        assert_eq!(tokens, case.tokens, "case {index}");
        let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
        for (candidate, &expected) in candidates.iter().zip(&case.probabilities) {
            let error = (f64::from(candidate.weight) / total / expected - 1.0).abs();
            assert!(error < 1e-5, "case {index}, token {}: {error:e}", candidate.token);
        }
        for (token, (ours, theirs)) in logits.iter().zip(&case.processed).enumerate() {
            assert!(
                (ours - theirs).abs() <= 1e-6 * theirs.abs(),
                "case {index}, token {token}: {ours} {theirs}"
            );
        }
    }
}

#[test]
fn ties_go_to_the_token_mlx_takes() {
    for case in goldens().argmax {
        assert_eq!(sample_with(SamplerConfig::default(), &case.logits), Ok(case.token));
    }
}

/// Computes the filters in a straightforward way: whether each token is kept, or `None` within rounding of an edge.
fn reference(logits: &[f32], config: &SamplerConfig) -> Vec<Option<bool>> {
    const ROUNDING: f64 = 1e-5;
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let p: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - top).exp()).collect();
    let total: f64 = p.iter().sum();
    let mut by_rank: Vec<usize> = (0..p.len()).collect();
    by_rank.sort_by(|&left, &right| logits[right].total_cmp(&logits[left]).then(left.cmp(&right)));
    let below = |value: f64, edge: f64| {
        if (value - edge).abs() <= ROUNDING * edge { None } else { Some(value < edge) }
    };
    let mut kept = vec![Some(true); p.len()];
    let also = |kept: &mut Option<bool>, other: Option<bool>| {
        *kept = match (*kept, other) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        }
    };
    for (rank, &token) in by_rank.iter().enumerate() {
        if config.top_p < 1.0 {
            let above: f64 =
                p.iter().zip(logits).filter(|(_, other)| **other > logits[token]).map(|(p, _)| p).sum();
            also(&mut kept[token], below(above, f64::from(config.top_p) * total));
        }
        if config.min_p > 0.0 {
            also(&mut kept[token], below(p[token], f64::from(config.min_p)).map(|is_below| !is_below));
        }
        if config.top_k > 0 {
            also(&mut kept[token], Some(rank < config.top_k));
        }
        // Weights that underflow an f32 are zero.
        let weight = (f64::from(logits[token] - top) / f64::from(config.temperature)).exp();
        also(&mut kept[token], Some(weight > 2e-38).filter(|_| !(1e-38..4e-38).contains(&weight)));
    }
    kept
}

#[test]
fn filters_keep_what_the_reference_keeps() {
    let on_a_grid = (-12i8..12).prop_map(|step| f32::from(step) / 4.0);
    let logit =
        prop_oneof![8 => -20f32..20.0, 6 => on_a_grid, 1 => Just(f32::NEG_INFINITY), 1 => -300f32..-80.0];
    let logits = prop_oneof![
        prop::collection::vec(logit.clone(), 1..40),
        prop::collection::vec(logit.clone(), 200..900),
        prop::collection::vec(-0.3f32..0.3, 300..900),
    ];
    let top_k = prop_oneof![Just(0), 1usize..10, 1usize..1000];
    let top_p = prop_oneof![Just(1.0f32), 0.01f32..1.0, 0.9f32..1.0];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..0.3, 0.0f32..=1.0];
    let config = (0.05f32..4.0, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| {
        SamplerConfig { temperature, top_k, top_p, min_p, ..SamplerConfig::default() }
    });
    let persistence = Some(Box::new(FileFailurePersistence::WithSource("seeds")) as _);
    let cases = ProptestConfig { failure_persistence: persistence, ..ProptestConfig::with_cases(1000) };
    proptest!(cases, |(logits in logits, config in config)| {
        prop_assume!(logits.iter().any(|logit| logit.is_finite()));
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let expected = reference(&logits, &config);
        let mut sampler = sampler(config.clone());
        let candidates = sampler.candidates(&mut logits.clone(), &[]).unwrap().to_vec();
        prop_assert!(candidates.is_sorted_by_key(|candidate| candidate.token));
        let mut is_kept = vec![false; logits.len()];
        for Candidate { token, weight } in &candidates {
            is_kept[*token as usize] = true;
            let exact = (f64::from((logits[*token as usize] - top) / config.temperature)).exp();
            prop_assert!((f64::from(*weight) / exact - 1.0).abs() < 1e-6, "weight {} of {}", weight, exact);
        }
        for (token, (kept, expected)) in is_kept.iter().zip(&expected).enumerate() {
            prop_assert!(expected.is_none_or(|expected| expected == *kept), "token {}", token);
        }
        let drawn = sampler.sample(&mut logits.clone(), &[]).unwrap();
        prop_assert!(is_kept[drawn as usize]);
    });
}

/// Returns the statistic of Pearson's chi-square test of counts against weights, which need no normalization.
fn chi_square(counts: &[u32], weights: &[f64]) -> f64 {
    let (n, total) = (f64::from(counts.iter().sum::<u32>()), weights.iter().sum::<f64>());
    let term = |(&count, weight): (&u32, &f64)| {
        let expected = weight / total * n;
        (f64::from(count) - expected).powi(2) / expected
    };
    counts.iter().zip(weights).map(term).sum()
}

/// Logits of a small vocabulary.
const FEW: [f32; 8] = [0.3, -1.0, 2.0, 1.1, -0.2, 0.0, 1.9, -3.0];

/// Exceeded once in a thousand seeds with 7 degrees of freedom.
const CHI_SQUARE_7: f64 = 24.3;

#[test]
fn samples_of_many_positions_and_of_many_seeds_are_distributed_as_the_softmax_says() {
    const N_SAMPLES: usize = 40_000;
    let history = vec![0; N_SAMPLES];
    for temperature in [1.0f32, 0.7, 2.0] {
        let weights = FEW.map(|logit| f64::from(logit / temperature).exp());
        let (mut of_positions, mut of_seeds) = ([0u32; 8], [0u32; 8]);
        let mut one_seed = sampler(SamplerConfig { temperature, ..plain(1) });
        for n in 0..N_SAMPLES {
            of_positions[one_seed.sample(&mut FEW.clone(), &history[..n]).unwrap() as usize] += 1;
            let mut other_seed = sampler(SamplerConfig { temperature, ..plain(n as u64) });
            of_seeds[other_seed.sample(&mut FEW.clone(), &history[..5]).unwrap() as usize] += 1;
        }
        for counts in [of_positions, of_seeds] {
            let chi_square = chi_square(&counts, &weights);
            assert!(chi_square < CHI_SQUARE_7, "temperature {temperature}: {chi_square} {counts:?}");
        }
    }
}

#[test]
fn samples_of_a_large_vocabulary_are_distributed_as_the_softmax_says() {
    const N_SAMPLES: usize = 4000;
    const N_TOKENS: usize = 30_000;
    const N_GROUPS: usize = 8;
    // Groups of neighbours have different mass, and the last group is one likely token.
    let group_of = |token: usize| if token + 1 == N_TOKENS { 7 } else { token * 7 / N_TOKENS };
    let logits: Vec<f32> = (0..N_TOKENS)
        .map(|token| if group_of(token) == 7 { 8.0 } else { group_of(token) as f32 / 4.0 })
        .collect();
    let mut weights = [0.0; N_GROUPS];
    for (token, &logit) in logits.iter().enumerate() {
        weights[group_of(token)] += f64::from(logit).exp();
    }
    let mut counts = [0; N_GROUPS];
    let (mut sampler, history) = (sampler(plain(3)), vec![0; N_SAMPLES]);
    for n in 0..N_SAMPLES {
        counts[group_of(sampler.sample(&mut logits.clone(), &history[..n]).unwrap() as usize)] += 1;
    }
    let chi_square = chi_square(&counts, &weights);
    assert!(chi_square < CHI_SQUARE_7, "{chi_square} {counts:?}");
}

#[test]
fn samples_of_neighbouring_positions_and_seeds_are_independent() {
    const N_SAMPLES: usize = 40_000;
    let weights = FEW.map(|logit| f64::from(logit).exp());
    let products: Vec<f64> =
        weights.iter().flat_map(|one| weights.iter().map(move |other| one * other)).collect();
    let history = vec![0; N_SAMPLES + 1];
    let at = |seed, position| sampler(plain(seed)).sample(&mut FEW.clone(), &history[..position]).unwrap();
    let pairs: [&dyn Fn(usize) -> (u32, u32); 2] =
        [&|n| (at(1, n), at(1, n + 1)), &|n| (at(n as u64, 9), at(n as u64 + 1, 9))];
    for pair in pairs {
        let mut counts = vec![0; 64];
        for n in 0..N_SAMPLES {
            let (one, other) = pair(n);
            counts[(one * 8 + other) as usize] += 1;
        }
        let chi_square = chi_square(&counts, &products);
        // With 63 degrees of freedom, 103.4 is exceeded once in a thousand seeds.
        assert!(chi_square < 103.4, "{chi_square}");
    }
}

#[test]
fn a_seed_gives_the_same_samples_in_every_version() {
    let logits: Vec<f32> = (0..1000u32).map(|token| (token * 7919 % 1000) as f32 / 250.0).collect();
    let config = SamplerConfig { temperature: 0.9, top_p: 0.95, min_p: 0.02, top_k: 400, ..plain(42) };
    let history = [0; 8];
    let samples = |config: SamplerConfig| -> Vec<u32> {
        let mut sampler = sampler(config);
        (0..8).map(|n| sampler.sample(&mut logits.clone(), &history[..n]).unwrap()).collect()
    };
    let sampled = samples(config.clone());
    assert_ne!(sampled, samples(SamplerConfig { seed: 43, ..config }));
    // Computed in Python from the formula in the documentation, with the logarithms of its library.
    assert_eq!(sampled, [15, 720, 411, 75, 693, 681, 322, 211]);
}

#[test]
fn a_sample_does_not_depend_on_samples_before_it_nor_on_the_tokens_of_the_history() {
    let (ones, twos) = ([1; 40], [2; 40]);
    let mut in_order = sampler(plain(5));
    let expected: Vec<u32> =
        (0..40).map(|n| in_order.sample(&mut FEW.clone(), &ones[..n]).unwrap()).collect();
    let mut backwards = sampler(plain(5));
    for n in (0..40).rev() {
        backwards.sample(&mut [f32::NAN], &twos[..n]).unwrap_err();
        backwards.candidates(&mut FEW.clone(), &twos[..n]).unwrap();
        assert_eq!(backwards.sample(&mut FEW.clone(), &twos[..n]), Ok(expected[n]));
    }
    assert!(expected.iter().any(|token| *token != expected[0]));
}

#[test]
fn a_filter_only_removes_candidates_and_leaves_the_noise_of_others() {
    let mut n_changed = 0;
    for position in 0..200 {
        let history = vec![0; position];
        let all = sampler(plain(8)).sample(&mut FEW.clone(), &history).unwrap();
        let mut filtered = sampler(SamplerConfig { top_k: 3, ..plain(8) });
        let kept = filtered.sample(&mut FEW.clone(), &history).unwrap();
        // Tokens 2, 6 and 3 are the likeliest. If one of them wins among all, it wins among the three.
        if [2, 3, 6].contains(&all) {
            assert_eq!(kept, all);
        } else {
            assert!([2, 3, 6].contains(&kept));
            n_changed += 1;
        }
    }
    assert!(n_changed > 10);
}

#[test]
fn a_recent_token_is_penalized_once_and_by_its_sign() {
    let config = SamplerConfig { repetition_penalty: 2.0, repetition_window: 3, ..SamplerConfig::default() };
    let mut logits = [4.0f32, -4.0, 3.0, 1.0];
    // Token 2 is before the window, token 0 is twice in it.
    let token = sampler(config).sample(&mut logits, &[2, 0, 1, 0]).unwrap();
    assert_eq!((token, logits), (2, [2.0, -8.0, 3.0, 1.0]));
}

#[test]
fn a_window_of_zero_is_the_whole_history() {
    let config = SamplerConfig { repetition_penalty: 2.0, repetition_window: 0, ..SamplerConfig::default() };
    let history: Vec<u32> = std::iter::once(0).chain([1; 500]).collect();
    let mut logits = [4.0f32, 4.0];
    sampler(config).sample(&mut logits, &history).unwrap();
    assert_eq!(logits, [2.0, 2.0]);
}

#[test]
fn of_equals_at_the_edge_of_top_k_the_lowest_ids_are_kept() {
    let mut sampler = sampler(SamplerConfig { top_k: 3, ..plain(0) });
    let mut logits = [1.0f32, 5.0, 1.0, 1.0, 2.0, 1.0];
    let tokens: Vec<u32> = sampler.candidates(&mut logits, &[]).unwrap().iter().map(|c| c.token).collect();
    assert_eq!(tokens, [0, 1, 4]);
}

#[test]
fn a_top_k_of_the_vocabulary_or_more_keeps_everything() {
    for top_k in [4, 5, usize::MAX] {
        let mut sampler = sampler(SamplerConfig { top_k, ..plain(0) });
        assert_eq!(sampler.candidates(&mut [1.0, 1.0, 1.0, 1.0], &[]).unwrap().len(), 4);
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let valid = SamplerConfig::default();
    let bad = [
        ("temperature", SamplerConfig { temperature: f32::NAN, ..valid.clone() }),
        ("temperature", SamplerConfig { temperature: -0.1, ..valid.clone() }),
        ("temperature", SamplerConfig { temperature: f32::INFINITY, ..valid.clone() }),
        ("top_p", SamplerConfig { top_p: f32::NAN, ..valid.clone() }),
        ("top_p", SamplerConfig { top_p: 0.0, ..valid.clone() }),
        ("top_p", SamplerConfig { top_p: 1.01, ..valid.clone() }),
        ("min_p", SamplerConfig { min_p: f32::NAN, ..valid.clone() }),
        ("min_p", SamplerConfig { min_p: -0.1, ..valid.clone() }),
        ("min_p", SamplerConfig { min_p: 1.01, ..valid.clone() }),
        ("repetition_penalty", SamplerConfig { repetition_penalty: f32::NAN, ..valid.clone() }),
        ("repetition_penalty", SamplerConfig { repetition_penalty: 0.0, ..valid.clone() }),
        ("repetition_penalty", SamplerConfig { repetition_penalty: f32::INFINITY, ..valid.clone() }),
    ];
    for (wanted, config) in bad {
        let error = config.validate().unwrap_err();
        assert!(matches!(error, SampleError::Config { field, .. } if field == wanted), "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(Sampler::new(config).is_err());
    }
    valid.validate().unwrap();
}

#[test]
fn invalid_logits_give_an_error_and_no_token() {
    for config in [SamplerConfig::default(), plain(0)] {
        let bad = |logits: &[f32]| match sample_with(config.clone(), logits) {
            Err(SampleError::BadLogit { token, .. }) => Some(token),
            _ => None,
        };
        assert_eq!(bad(&[0.0, f32::NAN, f32::NAN]), Some(1));
        assert_eq!(bad(&[f32::NAN, 0.0]), Some(0));
        assert_eq!(bad(&[f32::NAN; 3]), Some(0));
        assert_eq!(bad(&[0.0, f32::INFINITY]), Some(1));
        assert_eq!(sample_with(config.clone(), &[]), Err(SampleError::NoLogits));
        let masked = [f32::NEG_INFINITY; 3];
        assert_eq!(sample_with(config.clone(), &masked), Err(SampleError::AllMasked { n_logits: 3 }));
        assert_eq!(sample_with(config, &[f32::NEG_INFINITY, -5.0, f32::NEG_INFINITY]), Ok(1));
    }
}

#[test]
fn a_token_of_the_history_without_a_logit_is_named() {
    let config = SamplerConfig { repetition_penalty: 1.1, ..plain(0) };
    let error = sampler(config).sample(&mut [0.0, 1.0], &[1, 7]).unwrap_err();
    assert_eq!(error, SampleError::HistoryToken { token: 7, n_logits: 2 });
}

#[test]
fn extreme_settings_do_not_disturb_the_draw() {
    let logits = [3.0f32, 3.0e38, -3.0e38, f32::MIN];
    assert_eq!(sample_with(SamplerConfig { temperature: f32::MIN_POSITIVE, ..plain(0) }, &logits), Ok(1));
    let flat = SamplerConfig { temperature: f32::MAX, ..plain(0) };
    assert_eq!(sampler(flat).candidates(&mut [0.0, 50.0], &[]).unwrap().len(), 2);
    let tiny = SamplerConfig { top_p: f32::MIN_POSITIVE, min_p: 1.0, top_k: 1, ..plain(0) };
    assert_eq!(sample_with(tiny, &[1.0, 2.0]), Ok(1));
}
