//! Models that cannot be converted are rejected before anything is written.

use flash_convert::gguf::{BlockFormat, GgufError};
use flash_convert::{Conversion, ConvertError, Target};

use crate::builder::{Builder, Typed};
use crate::converted::open_error;
use crate::tiny::{Folder, Tiny};

fn tiny() -> Builder {
    Tiny::new(BlockFormat::F32).build()
}

fn refusal_with(key: &str, value: Typed) -> ConvertError {
    open_error(tiny().set(key, value))
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Conversion::open("/nowhere/model.gguf".as_ref()).unwrap_err();
    assert!(matches!(error, ConvertError::Open { .. }));
    assert!(error.to_string().starts_with("/nowhere/model.gguf: cannot be opened: "));
}

#[test]
fn a_folder_is_no_gguf_file() {
    let error = Conversion::open(std::env::temp_dir().as_path()).unwrap_err();
    assert!(matches!(error, ConvertError::Open { .. }), "{error}");
}

#[test]
fn other_architectures_are_refused_with_the_known_ones() {
    let error = refusal_with("general.architecture", Typed::string("mamba"));
    let ConvertError::Architecture { found, known, .. } = error else { panic!("{error}") };
    assert_eq!((found.as_str(), known), ("mamba", "llama, qwen2, qwen3, gemma3"));
}

#[test]
fn settings_that_cannot_be_expressed_are_refused_by_key() {
    for (key, value) in [
        ("llama.expert_count", Typed::u32(8)),
        ("llama.attention.causal", Typed::bool(false)),
        ("llama.attention.scale", Typed::f32(0.1)),
        ("llama.logit_scale", Typed::f32(2.0)),
        ("llama.attention.sliding_window", Typed::u32(128)),
        ("llama.rope.scaling.type", Typed::string("yarn")),
        ("llama.block_count", Typed::u32(0)),
        ("llama.attention.head_count", Typed::u32(0)),
        ("llama.attention.head_count_kv", Typed::u32(3)),
        ("llama.attention.value_length", Typed::u32(8)),
        ("llama.attention.key_length", Typed::u32(15)),
        ("llama.vocab_size", Typed::u32(9)),
    ] {
        let error = refusal_with(key, value);
        match &error {
            ConvertError::Unsupported { key: found, .. }
                if found == key || key == "llama.attention.value_length" => {}
            other => panic!("{key}: {other}"),
        }
    }
    let mut gguf = tiny();
    gguf.set("llama.rope.scaling.factor", Typed::f32(f32::NAN));
    assert!(matches!(open_error(&gguf), ConvertError::Unsupported { .. }));
}

#[test]
fn settings_that_are_missing_or_of_another_type_are_named() {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
    ] {
        match open_error(tiny().remove(key)) {
            ConvertError::Gguf { fault: GgufError::MissingKey { key: found }, .. } => {
                assert_eq!(found, key);
            }
            other => panic!("{key}: {other}"),
        }
        match refusal_with(key, Typed::bool(true)) {
            ConvertError::Gguf { fault: GgufError::KeyType { key: found, .. }, .. } => {
                assert_eq!(found, key);
            }
            other => panic!("{key}: {other}"),
        }
    }
    // GGUF stores head counts that vary by layer as an array.
    let error = refusal_with("llama.attention.head_count", Typed::i32s(&[4, 2]));
    assert!(matches!(error, ConvertError::Gguf { fault: GgufError::KeyType { .. }, .. }));
}

#[test]
fn a_missing_tensor_is_named() {
    for name in ["token_embd.weight", "blk.1.attn_k.weight", "output_norm.weight"] {
        let mut gguf = tiny();
        gguf.tensors.retain(|tensor| tensor.name != name);
        match open_error(&gguf) {
            ConvertError::MissingTensor { tensor, .. } => assert_eq!(tensor, name),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn layers_that_are_only_claimed_are_a_missing_tensor() {
    let error = refusal_with("llama.block_count", Typed::u32(u32::MAX));
    let ConvertError::MissingTensor { tensor, .. } = error else { panic!("{error}") };
    assert_eq!(tensor, "blk.2.attn_norm.weight");
}

#[test]
fn biases_of_some_projections_only_are_a_missing_tensor() {
    let mut gguf = tiny();
    gguf.tensor("blk.0.attn_q.bias", &[64], 0, vec![0; 256]);
    let ConvertError::MissingTensor { tensor, .. } = open_error(&gguf) else { panic!() };
    assert_eq!(tensor, "blk.0.attn_k.bias");
}

#[test]
fn unknown_tensors_are_named() {
    let mut gguf = tiny();
    gguf.tensor("blk.0.attn_q_norm.weight", &[64], 0, vec![0; 256]);
    let ConvertError::UnknownTensor { tensor, .. } = open_error(&gguf) else { panic!() };
    assert_eq!(tensor, "blk.0.attn_q_norm.weight");
}

#[test]
fn shapes_agree_with_the_settings() {
    let error = refusal_with("llama.feed_forward_length", Typed::u32(64));
    let ConvertError::TensorShape { tensor, wanted, found, .. } = error else { panic!("{error}") };
    assert_eq!(tensor, "blk.0.ffn_gate.weight");
    assert_eq!((wanted, found), (vec![64, 64], vec![64, 128]));
}

#[test]
fn block_types_that_cannot_be_converted_are_refused_with_the_known_ones() {
    let mut gguf = tiny();
    let tensor = gguf.tensor_mut("blk.0.attn_v.weight");
    tensor.type_id = 20;
    tensor.data.truncate(64 * 32 / 32 * 18);
    let error = open_error(&gguf);
    let ConvertError::TensorType { tensor, found, known, .. } = error else { panic!("{error}") };
    assert_eq!((tensor.as_str(), found.name()), ("blk.0.attn_v.weight", "IQ4_NL"));
    assert!(known.contains("Q4_K"));
}

#[test]
fn quantized_vectors_are_refused() {
    let mut gguf = tiny();
    let norm = gguf.tensor_mut("output_norm.weight");
    norm.type_id = 8;
    norm.data.truncate(68);
    let ConvertError::TensorType { tensor, .. } = open_error(&gguf) else { panic!() };
    assert_eq!(tensor, "output_norm.weight");
}

#[test]
fn rope_factors_that_no_config_describes_are_refused_by_name() {
    let mut gguf = tiny();
    let factors: Vec<u8> = (1..=8).flat_map(|factor| (factor as f32).to_le_bytes()).collect();
    gguf.tensor("rope_freqs.weight", &[8], 0, factors);
    let ConvertError::RopeFactors { tensor, .. } = open_error(&gguf) else { panic!() };
    assert_eq!(tensor, "rope_freqs.weight");
    gguf.tensor_mut("rope_freqs.weight").dims = vec![4, 2];
    assert!(matches!(open_error(&gguf), ConvertError::TensorShape { .. }));
}

#[test]
fn targets_that_mlx_does_not_have_are_refused() {
    let folder = Folder::new(&tiny());
    let conversion = Conversion::open(&folder.gguf()).unwrap();
    for (bits, group_size) in [(1, 64), (7, 64), (4, 16), (0, 0)] {
        let target = Target::Quantize { bits, group_size };
        assert!(matches!(conversion.plan(target, 1).unwrap_err(), ConvertError::Target { .. }));
    }
}
