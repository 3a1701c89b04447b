//! Greedy ids and logits equal those of mlx-lm in float32, for the demo model and for tiny models with features that it
//! lacks.
//!
//! `goldens/parity` holds mlx-lm's results for each prompt, and the scripts that compute them; `cargo xtask goldens`
//! regenerates them. Half of the prompts run on the smallest budget, half with all weights in memory.
//!
//! All backends are tested. MLX's own operations take a quarter of an hour of two cores for all prompts on all
//! directories of the demo model, so they run only a few where the CPU kernels are available (see [`MlxPrompts`]), and
//! some runs decode only [`FEW_IDS`]. `FLASH_PARITY=full` runs all.

#![expect(clippy::print_stdout, reason = "prints the progress of long tests, and why tests are skipped")]

mod common;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{COMPUTES, Memory};
use flash_io::IoMode;
use flash_model::{Compute, Engine};
use flash_text::{ChatTemplate, Message, Tokenizer};
use serde::Deserialize;

/// Maximum error of a logit, relative to the largest |logit|. All greedy ids in the goldens lead by more.
const TOLERANCE: f32 = 1e-3;

/// Ids that are decoded after a prompt where each takes long: from the disk, by copies of the demo model that are not in
/// 4 bits, because each id reads up to 540 MB; and by MLX's own operations. In memory, the kernels decode all ids of each
/// prompt with each copy, and the copy in 4 bits decodes all ids everywhere.
const FEW_IDS: usize = 4;

/// The JSON file that `oracle.py` writes beside the logits.
#[derive(Deserialize)]
struct Golden {
    vocab_size: usize,
    stride: usize,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    name: String,
    ids: Vec<u32>,
    greedy: Vec<u32>,
    max_abs_logit: f32,
    largest_ids: Vec<usize>,
}

/// A prompt of `prompts.json`: either a text or a conversation.
#[derive(Deserialize)]
struct Source {
    name: String,
    text: Option<String>,
    #[serde(default)]
    messages: Vec<SourceMessage>,
}

#[derive(Deserialize)]
struct SourceMessage {
    role: String,
    content: String,
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Reads a golden, and the stored logits of each of its prompts.
fn golden(name: &str) -> (Golden, Vec<Vec<f32>>) {
    let path = tests().join("goldens/parity").join(name);
    let golden: Golden = serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
    let bytes = fs::read(path.with_extension("f32")).unwrap();
    let (words, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    let mut values = words.iter().map(|&word| f32::from_le_bytes(word));
    let kept = |prompt: &Prompt| golden.vocab_size.div_ceil(golden.stride) + prompt.largest_ids.len();
    let logits = golden.prompts.iter().map(|prompt| values.by_ref().take(kept(prompt)).collect()).collect();
    assert!(values.next().is_none());
    (golden, logits)
}

/// Returns the id of the largest logit; of equal ones the lowest, as mlx-lm's argmax does.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Checks the logits after the prompt, then decodes greedily and checks the ids.
fn check(engine: &mut Engine, golden: &Golden, prompt: &Prompt, kept: &[f32]) {
    check_within(TOLERANCE, engine, golden, prompt, kept, usize::MAX);
}

/// Checks the logits after the prompt within `tolerance`, then decodes greedily and checks the ids, at most `ids_max`.
fn check_within(
    tolerance: f32,
    engine: &mut Engine,
    golden: &Golden,
    prompt: &Prompt,
    kept: &[f32],
    ids_max: usize,
) {
    let mut logits = engine.forward(&prompt.ids).unwrap();
    assert_eq!(logits.len(), golden.vocab_size);
    let ids = (0..logits.len()).step_by(golden.stride).chain(prompt.largest_ids.iter().copied());
    let (worst, id) = ids
        .zip(kept)
        .map(|(id, kept)| ((logits[id] - kept).abs(), id))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .unwrap();
    let part = worst / prompt.max_abs_logit;
    println!("{}: logits are off by {part:.1e} of the largest", prompt.name);
    assert!(part <= tolerance, "{}: logit {id} is {}, off by {worst}", prompt.name, logits[id]);

    let wanted = &prompt.greedy[..prompt.greedy.len().min(ids_max)];
    let mut greedy = vec![argmax(&logits)];
    while greedy.len() < wanted.len() {
        logits = engine.forward(&greedy[greedy.len() - 1..]).unwrap();
        greedy.push(argmax(&logits));
    }
    assert_eq!(greedy, wanted, "{}", prompt.name);
}

/// Runs a committed model with random weights, in each I/O mode.
fn tiny(name: &str) {
    let dir = tests().join("fixtures/tiny").join(name);
    let (golden, logits) = golden(&format!("tiny-{name}"));
    let memories = [Memory::Floor, Memory::Plenty, Memory::Floor, Memory::Floor];
    let modes = [IoMode::Pread, IoMode::Direct, IoMode::Mmap, IoMode::Direct];
    assert_eq!(golden.prompts.len(), modes.len());
    for (((prompt, kept), memory), io) in golden.prompts.iter().zip(&logits).zip(memories).zip(modes) {
        for &compute in COMPUTES {
            let mut engine = common::engine(&dir, memory, io, prompt.ids.len(), prompt.greedy.len(), compute);
            check(&mut engine, &golden, prompt, kept);
        }
    }
}

/// Tests of options that only the CPU kernels have.
#[cfg(target_os = "linux")]
mod exact {
    use flash_model::ComputeOptions;

    use super::*;

    /// Mixtures with affine codes of 4 bits.
    const QUANTIZED_MIXTURES: [&str; 7] = [
        "qwen2_moe-q4",
        "qwen3_moe-q4",
        "gpt_oss-q4",
        "deepseek_v3-q4-joint",
        "nemotron_h-latent-q4",
        "qwen3_5_moe-q4",
        "qwen3_next-q4",
    ];

    /// Maximum relative error of a logit if kernels round no further than f32 sums do.
    const EXACT_TOLERANCE: f32 = 2e-5;

    #[test]
    fn exact_kernels_equal_mlx_lm_fifty_times_as_closely() {
        let exact = ComputeOptions { is_exact: true, ..Compute::Native.into() };
        for name in QUANTIZED_MIXTURES {
            let dir = tests().join("fixtures/tiny").join(name);
            let (golden, logits) = golden(&format!("tiny-{name}"));
            for ((prompt, kept), memory) in
                golden.prompts.iter().zip(&logits).zip([Memory::Floor, Memory::Plenty].into_iter().cycle())
            {
                let n_new = prompt.greedy.len();
                let mut engine = common::engine(&dir, memory, IoMode::Pread, prompt.ids.len(), n_new, exact);
                check_within(EXACT_TOLERANCE, &mut engine, &golden, prompt, kept, usize::MAX);
            }
        }
    }
}

#[test]
fn untied_head_equals_mlx_lm() {
    tiny("untied");
}

#[test]
fn biases_of_attention_and_mlp_equal_mlx_lm() {
    tiny("biases");
}

#[test]
fn llama3_rope_equals_mlx_lm() {
    tiny("rope-llama3");
}

#[test]
fn linear_rope_equals_mlx_lm() {
    tiny("rope-linear");
}

#[test]
fn yarn_equals_mlx_lm() {
    tiny("rope-yarn");
}

#[test]
fn yarn_with_betas_and_magnitudes_of_its_own_equals_mlx_lm() {
    tiny("rope-yarn-mscale");
}

#[test]
fn traditional_rope_equals_mlx_lm() {
    tiny("rope-traditional");
}

#[test]
fn head_dim_that_is_not_hidden_over_heads_equals_mlx_lm() {
    tiny("head-dim");
}

#[test]
fn four_query_heads_a_key_equal_mlx_lm() {
    tiny("gqa-4-1");
}

#[test]
fn bf16_equals_mlx_lm() {
    tiny("bf16");
}

#[test]
fn four_bit_groups_of_32_equal_mlx_lm() {
    tiny("q4-g32");
}

#[test]
fn four_bit_groups_of_128_equal_mlx_lm() {
    tiny("q4-g128");
}

#[test]
fn eight_bit_groups_of_64_with_other_formats_for_some_equal_mlx_lm() {
    tiny("q8-g64");
}

#[test]
fn vocabulary_that_is_no_multiple_of_64_equals_mlx_lm() {
    tiny("vocab-331");
}

#[test]
fn a_prompt_longer_than_the_trained_context_equals_mlx_lm() {
    tiny("beyond-context");
}

#[test]
fn shards_cut_inside_a_layer_equal_mlx_lm() {
    tiny("sharded");
}

#[test]
fn two_bit_groups_of_64_equal_mlx_lm() {
    tiny("q2-g64");
}

#[test]
fn three_bit_groups_of_32_equal_mlx_lm() {
    tiny("q3-g32");
}

#[test]
fn five_bit_groups_of_64_equal_mlx_lm() {
    tiny("q5-g64");
}

#[test]
fn six_bit_groups_of_128_equal_mlx_lm() {
    tiny("q6-g128");
}

#[test]
fn mxfp4_equals_mlx_lm() {
    tiny("mxfp4");
}

#[test]
fn mxfp8_equals_mlx_lm() {
    tiny("mxfp8");
}

#[test]
fn nvfp4_equals_mlx_lm() {
    tiny("nvfp4");
}

#[test]
fn modes_that_differ_from_layer_to_layer_equal_mlx_lm() {
    tiny("mixed-modes");
}

#[test]
fn norms_of_heads_equal_mlx_lm() {
    tiny("qwen3");
}

#[test]
fn qwen3_with_nested_rope_parameters_equals_mlx_lm() {
    tiny("qwen3-q4");
}

#[test]
fn biases_of_queries_keys_and_values_equal_mlx_lm() {
    tiny("qwen2");
}

#[test]
fn qwen2_with_its_own_head_equals_mlx_lm() {
    tiny("qwen2-q8");
}

#[test]
fn mistral_is_llama_to_mlx_lm() {
    tiny("mistral");
}

#[test]
fn sliding_windows_of_some_layers_equal_mlx_lm() {
    tiny("llama-sliding");
}

#[test]
fn every_other_layer_without_positions_equals_mlx_lm() {
    tiny("smollm3");
}

#[test]
fn listed_layers_without_positions_equal_mlx_lm() {
    tiny("smollm3-listed");
}

#[test]
fn fused_projections_equal_mlx_lm() {
    tiny("phi3");
}

#[test]
fn longrope_of_a_part_of_each_head_equals_mlx_lm() {
    tiny("phi3-longrope");
}

#[test]
fn quantized_fused_projections_equal_mlx_lm() {
    tiny("phi3-q4");
}

#[test]
fn gemma3_text_equals_mlx_lm() {
    tiny("gemma3-text");
}

#[test]
fn quantized_gemma3_text_with_scaled_rope_equals_mlx_lm() {
    tiny("gemma3-text-q4");
}

#[test]
fn text_model_of_gemma3_equals_mlx_lm() {
    tiny("gemma3");
}

#[test]
fn mixtral_equals_mlx_lm() {
    tiny("mixtral");
}

#[test]
fn mixtral_with_a_tensor_for_each_expert_equals_mlx_lm() {
    tiny("mixtral-each");
}

#[test]
fn qwen2_moe_equals_mlx_lm() {
    tiny("qwen2_moe");
}

#[test]
fn qwen2_moe_with_a_tensor_for_each_expert_equals_mlx_lm() {
    tiny("qwen2_moe-each");
}

#[test]
fn qwen2_moe_of_four_bits_equals_mlx_lm() {
    tiny("qwen2_moe-q4");
}

#[test]
fn qwen3_moe_equals_mlx_lm() {
    tiny("qwen3_moe");
}

#[test]
fn qwen3_moe_with_a_dense_layer_and_all_experts_for_each_token_equals_mlx_lm() {
    tiny("qwen3_moe-dense");
}

#[test]
fn qwen3_moe_of_four_bits_with_gates_of_eight_equals_mlx_lm() {
    tiny("qwen3_moe-q4");
}

#[test]
fn qwen3_moe_with_a_tensor_for_each_expert_equals_mlx_lm() {
    tiny("qwen3_moe-each");
}

#[test]
fn gpt_oss_with_its_sinks_windows_and_yarn_equals_mlx_lm() {
    tiny("gpt_oss");
}

#[test]
fn gpt_oss_with_listed_layers_and_plain_rope_equals_mlx_lm() {
    tiny("gpt_oss-window");
}

#[test]
fn gpt_oss_of_four_bits_with_routers_of_eight_equals_mlx_lm() {
    tiny("gpt_oss-q4");
}

#[test]
fn gpt_oss_with_experts_of_mxfp4_and_all_else_of_eight_bits_equals_mlx_lm() {
    tiny("gpt_oss-mxfp4");
}

#[test]
fn gpt_oss_as_it_was_published_equals_mlx_lm() {
    tiny("gpt_oss-blocks");
}

#[test]
fn deepseek_v3_with_groups_and_shared_experts_equals_mlx_lm() {
    tiny("deepseek_v3");
}

#[test]
fn kimi_k2_with_whole_queries_and_yarn_equals_mlx_lm() {
    tiny("kimi_k2");
}

#[test]
fn deepseek_v3_of_eight_bits_with_other_formats_for_some_equals_mlx_lm() {
    tiny("deepseek_v3-q8");
}

#[test]
fn keys_and_values_of_one_matrix_are_cut_by_head_as_in_mlx_lm() {
    tiny("deepseek_v3-joint");
}

#[test]
fn a_quantised_matrix_of_keys_and_values_is_quantised_anew_by_head_as_in_mlx_lm() {
    tiny("deepseek_v3-q4-joint");
}

#[test]
fn nemotron_h_equals_mlx_lm() {
    tiny("nemotron_h");
}

#[test]
fn nemotron_h_with_biases_limited_steps_and_named_layers_equals_mlx_lm() {
    tiny("nemotron_h-biases");
}

#[test]
fn quantized_nemotron_h_equals_mlx_lm() {
    tiny("nemotron_h-q4");
}

#[test]
fn nemotron_h_with_groups_of_experts_equals_mlx_lm() {
    tiny("nemotron_h-moe");
}

#[test]
fn nemotron_h_with_a_tensor_for_each_expert_equals_mlx_lm() {
    tiny("nemotron_h-moe-each");
}

#[test]
fn nemotron_h_whose_experts_work_on_a_projection_equals_mlx_lm() {
    tiny("nemotron_h-latent");
}

#[test]
fn quantized_nemotron_h_with_biases_of_projections_equals_mlx_lm() {
    tiny("nemotron_h-latent-q4");
}

#[test]
fn qwen3_5_equals_mlx_lm() {
    tiny("qwen3_5");
}

#[test]
fn qwen3_5_as_it_was_trained_equals_mlx_lm() {
    tiny("qwen3_5-trained");
}

#[test]
fn text_model_of_qwen3_5_equals_mlx_lm() {
    tiny("qwen3_5-q4");
}

#[test]
fn qwen3_5_moe_with_a_shared_expert_behind_a_gate_equals_mlx_lm() {
    tiny("qwen3_5_moe");
}

#[test]
fn qwen3_5_moe_as_it_was_trained_equals_mlx_lm() {
    tiny("qwen3_5_moe-trained");
}

#[test]
fn text_model_of_qwen3_5_moe_with_gates_of_eight_bits_equals_mlx_lm() {
    tiny("qwen3_5_moe-q4");
}

#[test]
fn qwen3_5_with_experts_equals_mlx_lm() {
    tiny("qwen3_5-moe");
}

#[test]
fn qwen3_next_with_a_layer_without_experts_equals_mlx_lm() {
    tiny("qwen3_next");
}

#[test]
fn qwen3_next_with_a_value_head_for_each_key_head_equals_mlx_lm() {
    tiny("qwen3_next-paired");
}

#[test]
fn qwen3_next_with_one_key_head_equals_mlx_lm() {
    tiny("qwen3_next-one-key-head");
}

#[test]
fn qwen3_next_as_it_was_trained_equals_mlx_lm() {
    tiny("qwen3_next-trained");
}

#[test]
fn quantized_qwen3_next_with_scaled_rope_equals_mlx_lm() {
    tiny("qwen3_next-q4");
}

/// The prompts that MLX's own operations compute by default on a directory of the demo model.
#[derive(Clone, Copy)]
enum MlxPrompts {
    /// The first three: plain text, a chat, emoji and Chinese.
    Three,
    None,
}

impl MlxPrompts {
    fn has(self, idx: usize, compute: Compute) -> bool {
        match self {
            _ if compute == Compute::Native || COMPUTES.len() == 1 => true,
            Self::Three => idx < 3,
            Self::None => false,
        }
    }
}

/// Checks a directory of the demo model against the golden of the same weights; the budget alternates between prompts.
fn demo(directory: &str, golden_name: &str, mlx_prompts: MlxPrompts, first: Memory) {
    let Some(dir) = common::demo_model(directory) else {
        return;
    };
    let full = env::var_os("FLASH_PARITY").is_some_and(|value| value == "full");
    let (golden, logits) = golden(&format!("demo-{golden_name}"));
    for &compute in COMPUTES {
        let mut memory = first;
        for (idx, (prompt, kept)) in golden.prompts.iter().zip(&logits).enumerate() {
            if full || mlx_prompts.has(idx, compute) {
                let begin = Instant::now();
                let n_greedy = prompt.greedy.len();
                let mut engine =
                    common::engine(&dir, memory, IoMode::Pread, prompt.ids.len(), n_greedy, compute);
                let is_slow = memory == Memory::Floor || compute == Compute::Mlx && COMPUTES.len() > 1;
                let ids_max = if is_slow && golden_name != "kept" && !full { FEW_IDS } else { usize::MAX };
                check_within(TOLERANCE, &mut engine, &golden, prompt, kept, ids_max);
                assert_eq!(engine.stats().streamed_bytes > 0, memory == Memory::Floor);
                let seconds = begin.elapsed().as_secs_f64();
                println!("{directory}, {}, {compute:?}, {memory:?}: {seconds:.1} s", prompt.name);
            }
            memory = memory.other();
        }
    }
}

#[test]
fn kept_equals_mlx_lm() {
    demo("kept", "kept", MlxPrompts::Three, Memory::Plenty);
}

#[test]
fn kept_in_shards_equals_mlx_lm() {
    demo("kept-sharded", "kept", MlxPrompts::None, Memory::Floor);
}

#[test]
fn f32_equals_mlx_lm() {
    demo("f32", "f32", MlxPrompts::Three, Memory::Plenty);
}

#[test]
fn f32_in_shards_equals_mlx_lm() {
    demo("f32-sharded", "f32", MlxPrompts::None, Memory::Floor);
}

#[test]
fn f16_equals_mlx_lm() {
    demo("f16", "f16", MlxPrompts::Three, Memory::Plenty);
}

#[test]
fn f16_in_shards_equals_mlx_lm() {
    demo("f16-sharded", "f16", MlxPrompts::None, Memory::Floor);
}

#[test]
fn eight_bit_equals_mlx_lm() {
    demo("8bit", "8bit", MlxPrompts::Three, Memory::Plenty);
}

#[test]
fn eight_bit_in_shards_equals_mlx_lm() {
    demo("8bit-sharded", "8bit", MlxPrompts::None, Memory::Floor);
}

/// Checks tokenizer and chat template against the ids in the goldens, which are those of mlx-lm.
#[test]
fn prompts_are_encoded_as_mlx_lm_does() {
    let sources: Vec<Source> =
        serde_json::from_slice(&fs::read(tests().join("goldens/parity/prompts.json")).unwrap()).unwrap();
    for name in ["kept", "f32", "f16", "8bit"] {
        let Some(dir) = common::demo_model(name) else {
            continue;
        };
        let (tokenizer, template) = (Tokenizer::open(&dir).unwrap(), ChatTemplate::open(&dir).unwrap());
        let (golden, _) = golden(&format!("demo-{name}"));
        assert_eq!(golden.prompts.len(), sources.len());
        for (source, prompt) in sources.iter().zip(&golden.prompts) {
            let text = source.text.clone().unwrap_or_else(|| {
                let message = |message: &SourceMessage| Message::new(&message.role, &message.content);
                template.render(&source.messages.iter().map(message).collect::<Vec<_>>(), true).unwrap()
            });
            assert_eq!(source.name, prompt.name);
            assert_eq!(tokenizer.encode_prompt(&text).unwrap(), prompt.ids, "{name}: {}", prompt.name);
        }
    }
}
