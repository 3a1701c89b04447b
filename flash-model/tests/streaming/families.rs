//! Streaming of a committed model of each family (the models of the comparison with mlx-lm).

use flash_io::faults::{Fault, When};
use flash_model::Compute;

use super::family::family;
use super::{Way, bits, in_mid_flight, prompt_of};

/// One model per family, with layers large enough to be streamed.
const STREAMED: [&str; 23] = [
    "llama-sliding",
    "qwen2",
    "qwen3",
    "smollm3",
    "phi3",
    "gemma3-text",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "gpt_oss",
    "gpt_oss-blocks",
    "deepseek_v3",
    "deepseek_v3-joint",
    "nemotron_h",
    "nemotron_h-moe",
    "nemotron_h-latent",
    "nemotron_h-latent-q4",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe-trained",
    "qwen3_5_moe-q4",
    "qwen3_next",
    "qwen3_next-q4",
];

/// Mixtures of experts, stacked and separate, in each layout that families and formats have.
pub(super) const MIXTURES: [&str; 22] = [
    "mixtral",
    "mixtral-each",
    "qwen2_moe-each",
    "qwen2_moe-q4",
    "qwen3_moe",
    "qwen3_moe-each",
    "qwen3_moe-q4",
    "gpt_oss",
    "gpt_oss-blocks",
    "gpt_oss-mxfp4",
    "deepseek_v3",
    "deepseek_v3-q8",
    "nemotron_h-moe",
    "nemotron_h-moe-each",
    "nemotron_h-latent",
    "nemotron_h-latent-q4",
    "kimi_k2",
    "qwen3_5_moe",
    "qwen3_5_moe-trained",
    "qwen3_5_moe-q4",
    "qwen3_next",
    "qwen3_next-trained",
];

/// One model per family, with two layers of experts.
const GUESSED: [&str; 8] = [
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "gpt_oss",
    "deepseek_v3",
    "nemotron_h-moe",
    "qwen3_5_moe",
    "qwen3_next",
];

#[test]
fn no_family_changes_a_bit_when_it_is_streamed() {
    for name in STREAMED {
        let (dir, vocab) = family(name);
        let prompt = prompt_of(290, vocab);
        for compute in [Compute::Auto, Compute::Mlx] {
            let resident = Way { compute, ..Way::RESIDENT };
            let wanted = bits(&mut resident.open(&dir).unwrap(), &prompt, vocab).unwrap();
            for (pinned, prefetch) in [(0.0, true), (0.0, false)] {
                let way = Way { compute, pinned, prefetch, threads: 2, chunk_bytes: 12_288, ..Way::RESIDENT };
                let mut engine = way.open(&dir).unwrap();
                let streamed = bits(&mut engine, &prompt, vocab).unwrap();
                assert!(streamed == wanted, "{name}: {way:?} differs");
                // Two slots hold two layers, one does not.
                assert!(prefetch || engine.stats().streamed_bytes > 0, "{name} was not streamed");
            }
        }
    }
}

#[test]
fn no_family_changes_a_bit_when_its_layers_are_in_tiles() {
    for name in STREAMED {
        let (dir, vocab) = family(name);
        let prompt = prompt_of(290, vocab);
        for compute in [Compute::Auto, Compute::Mlx] {
            let whole = Way { compute, ..Way::RESIDENT };
            let wanted = bits(&mut whole.open(&dir).unwrap(), &prompt, vocab).unwrap();
            for tile_rows in [4, 20, 1024] {
                let way = Way { compute, pinned: 0.0, tile_rows: Some(tile_rows), ..Way::RESIDENT };
                let tiled = bits(&mut way.open(&dir).unwrap(), &prompt, vocab).unwrap();
                assert!(tiled == wanted, "{name}: {way:?} differs");
            }
        }
    }
}

#[test]
fn experts_of_every_family_are_read_ahead_and_change_no_bit() {
    for name in GUESSED {
        let (dir, vocab) = family(name);
        let tokens = prompt_of(12, vocab);
        let decode = |way: Way| {
            let mut engine = way.open(&dir).unwrap();
            let logits = tokens.iter().map(|token| engine.forward(&[*token]).unwrap());
            let bits: Vec<u32> = logits.flatten().map(f32::to_bits).collect();
            (bits, engine.stats().experts.unwrap().ahead.guessed)
        };
        // A slot takes whole OS pages, which are large compared with these experts. Not all budgets that hold some
        // experts leave slots for lookahead.
        let (wanted, _) = decode(Way { pinned: 20.0, ..Way::RESIDENT });
        let budgets = (1..80).map(|step| f64::from(step) / 8.0);
        let mut n_guessed = budgets.map(|pinned| {
            let (got, guessed) = decode(Way { pinned, ..Way::RESIDENT });
            assert!(got == wanted, "{name}: {pinned} differs");
            guessed
        });
        assert!(n_guessed.any(|guessed| guessed > 0), "{name}: not one guess");
    }
}

#[test]
fn memory_that_comes_and_goes_changes_no_bit_of_hybrids_with_experts() {
    for name in ["nemotron_h-latent", "qwen3_5_moe"] {
        let (dir, vocab) = family(name);
        let prompt = prompt_of(290, vocab);
        for (compute, prefetch, tile_rows) in [
            (Compute::Auto, true, None),
            (Compute::Auto, false, None),
            (Compute::Auto, true, Some(20)),
            (Compute::Mlx, true, None),
        ] {
            let way = Way { compute, prefetch, tile_rows, ..Way::RESIDENT };
            let wanted = bits(&mut way.open(&dir).unwrap(), &prompt, vocab).unwrap();
            in_mid_flight(&mut way.open(&dir).unwrap(), &prompt, vocab, &wanted);
        }
    }
}

#[test]
fn a_read_that_fails_in_the_middle_of_a_pass_leaves_every_state_as_it_was() {
    let (dir, vocab) = family("nemotron_h");
    let prompt = prompt_of(290, vocab);
    let ids = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for (compute, tile_rows) in [(Compute::Auto, None), (Compute::Auto, Some(40)), (Compute::Mlx, None)] {
        let way = Way { compute, pinned: 0.0, prefetch: false, chunk_bytes: 12_288, ..Way::RESIDENT };
        let way = Way { tile_rows, ..way };
        let mut engine = way.open(&dir).unwrap();
        engine.forward(&prompt[..140]).unwrap();
        let wanted = ids(engine.forward(&prompt[140..]).unwrap());
        let mut failures = 0;
        for nth in (0..200).step_by(3) {
            // One read fails permanently; all others succeed.
            let way = Way { faults: Some((Fault::Denied, When::Nth(nth))), ..way.clone() };
            let mut engine = way.open(&dir).unwrap();
            for tokens in [&prompt[..140], &prompt[140..]] {
                let held = engine.held_tokens();
                let logits = match engine.forward(tokens) {
                    Ok(logits) => logits,
                    Err(_) => {
                        failures += 1;
                        assert_eq!(engine.held_tokens(), held);
                        engine.forward(tokens).unwrap()
                    }
                };
                assert!(held == 0 || ids(logits) == wanted, "{compute:?}, read {nth}");
            }
        }
        assert!(failures > 20, "only {failures} reads failed");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn native_logits_of_no_family_depend_on_how_tokens_are_batched() {
    for name in STREAMED {
        let (dir, vocab) = family(name);
        let prompt = prompt_of(290, vocab);
        let native = Way { compute: Compute::Native, ..Way::RESIDENT };
        let together = native.open(&dir).unwrap().forward(&prompt).unwrap();
        let mut engine = native.open(&dir).unwrap();
        engine.forward(&prompt[..201]).unwrap();
        for token in &prompt[201..289] {
            engine.forward(&[*token]).unwrap();
        }
        let alone = engine.forward(&prompt[289..]).unwrap();
        assert!(alone == together, "{name}");
    }
}
