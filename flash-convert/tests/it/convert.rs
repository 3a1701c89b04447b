//! Conversions of tiny models.

use std::ops::ControlFlow;

use flash_convert::gguf::BlockFormat;
use flash_convert::{Conversion, SHARD_BYTES_DEFAULT, Target};
use flash_kernels::FloatType;
use half::f16;
use safetensors::Dtype;
use serde_json::json;

use crate::builder::Typed;
use crate::converted::{convert, json as read_json, meant, read, run};
use crate::tiny::{Folder, Random, Tiny, blocks};

const ALL: [BlockFormat; 11] = [
    BlockFormat::F32,
    BlockFormat::F16,
    BlockFormat::BF16,
    BlockFormat::Q4_0,
    BlockFormat::Q4_1,
    BlockFormat::Q5_0,
    BlockFormat::Q5_1,
    BlockFormat::Q8_0,
    BlockFormat::Q4K,
    BlockFormat::Q5K,
    BlockFormat::Q6K,
];

#[test]
fn kept_models_preserve_values_or_report_lossy_tensors() {
    for format in ALL {
        let gguf = Tiny::new(format).build();
        let model = convert(&gguf, Target::Keep);
        for (name, wanted) in meant(&gguf) {
            let found = model.values(&name);
            let tensors = &model.report.tensors;
            let planned = tensors.iter().find(|tensor| tensor.name == name).unwrap();
            if planned.is_lossless() {
                assert_eq!(found, wanted, "{format:?} {name}");
            } else {
                assert_eq!(format, BlockFormat::Q6K, "{name}");
                let scales = &model.tensors[&name.replace(".weight", ".scales")];
                let largest = scales.values().iter().fold(0f32, |max, scale| max.max(scale.abs()));
                for (found, wanted) in found.iter().zip(wanted) {
                    assert!((found - wanted).abs() <= 1.001 * largest, "{name}: {wanted} became {found}");
                }
            }
        }
        let dtype = |name: &str| model.tensors.get(name).map(|tensor| tensor.dtype);
        assert_eq!(dtype("model.norm.weight"), Some(Dtype::F32));
        let wanted_scales = match format {
            BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16 => None,
            BlockFormat::Q4K | BlockFormat::Q5K | BlockFormat::Q6K => Some(Dtype::F32),
            _ => Some(Dtype::F16),
        };
        assert_eq!(dtype("model.embed_tokens.scales"), wanted_scales, "{format:?}");
    }
}

#[test]
fn dense_models_hold_the_values_rounded_to_their_type() {
    for format in [BlockFormat::F32, BlockFormat::BF16, BlockFormat::Q4_0, BlockFormat::Q6K] {
        let gguf = Tiny::new(format).build();
        for (float, dtype, name) in [
            (FloatType::F32, Dtype::F32, "float32"),
            (FloatType::F16, Dtype::F16, "float16"),
            (FloatType::BF16, Dtype::BF16, "bfloat16"),
        ] {
            let model = convert(&gguf, Target::Dense(float));
            assert_eq!(model.config["torch_dtype"], name);
            assert_eq!(model.config.get("quantization"), None);
            for (name, wanted) in meant(&gguf) {
                let wanted: Vec<f32> = wanted.into_iter().map(|value| float.round(value)).collect();
                assert_eq!(model.values(&name), wanted, "{format:?} {float:?} {name}");
                assert_eq!(model.tensors[&name].dtype, dtype);
            }
        }
    }
}

#[test]
fn quantized_models_keep_rows_that_are_no_whole_groups_as_f16() {
    let gguf = Tiny::new(BlockFormat::F32).build();
    let model = convert(&gguf, Target::Quantize { bits: 8, group_size: 128 });
    assert_eq!(model.config["quantization"], json!({"bits": 8, "group_size": 128, "mode": "affine"}));
    assert_eq!(model.config["quantization"], model.config["quantization_config"]);
    let dtype = |name: &str| model.tensors[name].dtype;
    assert_eq!(dtype("model.layers.0.mlp.down_proj.weight"), Dtype::U32);
    assert_eq!(dtype("model.layers.0.mlp.down_proj.scales"), Dtype::F16);
    assert_eq!(dtype("model.layers.0.mlp.up_proj.weight"), Dtype::F16);
    assert_eq!(dtype("model.norm.weight"), Dtype::F16);
    for (name, wanted) in meant(&gguf) {
        for (found, wanted) in model.values(&name).iter().zip(wanted) {
            assert!((found - wanted).abs() < 0.02, "{name}: {wanted} became {found}");
        }
    }
}

#[test]
fn head_and_biases_are_detected_and_recorded_in_the_config() {
    let tiny = Tiny { has_head: true, has_biases: true, head_dim: 32, ..Tiny::new(BlockFormat::Q8_0) };
    let mut gguf = tiny.build();
    gguf.set("llama.attention.key_length", Typed::u32(32));
    let model = convert(&gguf, Target::Keep);
    let meant = meant(&gguf);
    assert!(meant.contains_key("lm_head.weight"));
    assert!(meant.contains_key("model.layers.1.self_attn.q_proj.bias"));
    for (name, wanted) in &meant {
        assert_eq!(&model.values(name), wanted, "{name}");
    }
    let config = &model.config;
    assert_eq!(config["head_dim"], 32);
    assert_eq!(config["tie_word_embeddings"], false);
    assert_eq!(config["attention_bias"], true);
    assert_eq!(config["mlp_bias"], true);
    assert_eq!(config["rms_norm_eps"], 1e-5);
    assert_eq!(config["rope_theta"], 500_000.0);
}

#[test]
fn formats_that_differ_from_most_are_overrides_in_the_config() {
    let mut gguf = Tiny::new(BlockFormat::Q4_1).build();
    let embedding = gguf.tensor_mut("token_embd.weight");
    embedding.data = blocks(&mut Random::new(9), BlockFormat::Q8_0, 64 * 8);
    embedding.type_id = 8;
    let model = convert(&gguf, Target::Keep);
    let wanted = json!({
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
        "model.embed_tokens": {"group_size": 32, "bits": 8, "mode": "affine"},
    });
    assert_eq!(model.config["quantization"], wanted);
    assert_eq!(model.values("model.embed_tokens.weight"), meant(&gguf)["model.embed_tokens.weight"]);
}

#[test]
fn a_bias_beyond_f16_gives_every_repacked_tensor_f32_scales() {
    let mut gguf = Tiny::new(BlockFormat::Q8_0).build();
    let data = &mut gguf.tensor_mut("blk.1.ffn_up.weight").data;
    data[34..36].copy_from_slice(&f16::from_f32(-600.0).to_le_bytes());
    let model = convert(&gguf, Target::Keep);
    assert_eq!(model.tensors["model.layers.1.mlp.up_proj.scales"].dtype, Dtype::F32);
    assert_eq!(model.tensors["model.embed_tokens.scales"].dtype, Dtype::F32);
    assert!(model.report.tensors.iter().all(flash_convert::PlannedTensor::is_lossless));
    for (name, wanted) in meant(&gguf) {
        assert_eq!(model.values(&name), wanted, "{name}");
    }
}

#[test]
fn only_q6_k_is_lossy_and_the_plan_reports_it() {
    let folder = Folder::new(&Tiny::new(BlockFormat::Q6K).build());
    let conversion = Conversion::open(&folder.gguf()).unwrap();
    let plan = conversion.plan(Target::Keep, SHARD_BYTES_DEFAULT).unwrap();
    let lossy: Vec<_> = plan.lossy().collect();
    assert_eq!(lossy.len(), 15);
    assert_eq!(lossy[0].gguf_name, "token_embd.weight");
    assert_eq!(lossy[0].from.to_string(), "Q6_K");
    assert_eq!(lossy[0].becomes.to_string(), "8-bit codes in groups of 32 with f32 scales");
    let plan = conversion.plan(Target::Dense(FloatType::F32), SHARD_BYTES_DEFAULT).unwrap();
    assert_eq!(plan.lossy().count(), 0);
}

#[test]
fn shards_hold_the_same_tensors_in_the_order_of_execution() {
    let gguf = Tiny::new(BlockFormat::Q4_1).build();
    let whole = convert(&gguf, Target::Keep);
    let folder = Folder::new(&gguf);
    let report = run(&folder, Target::Keep, 20_000).unwrap();
    let n_shards = report.n_shards;
    assert!(n_shards > 2);
    let sharded = read(&folder.out(), report);
    assert_eq!(sharded.tensors, whole.tensors);

    let index = read_json(&folder.out().join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], whole.report.total_bytes);
    let weight_map = index["weight_map"].as_object().unwrap();
    assert_eq!(weight_map.len(), whole.tensors.len());
    let shard_of = |name: &str| weight_map[name].as_str().unwrap();
    let first = format!("model-00001-of-{n_shards:05}.safetensors");
    assert_eq!(shard_of("model.embed_tokens.weight"), first);
    assert!(
        shard_of("model.layers.0.mlp.down_proj.weight") <= shard_of("model.layers.1.mlp.down_proj.weight")
    );
    let is_cut = |layer: usize| {
        let part = |part: &str| shard_of(&format!("model.layers.{layer}.{part}.weight"));
        part("self_attn.q_proj") != part("mlp.down_proj")
    };
    assert!(is_cut(0) || is_cut(1), "no cut lies within a layer");
    for name in weight_map.keys() {
        if let Some(module) = name.strip_suffix(".scales") {
            assert_eq!(shard_of(name), shard_of(&format!("{module}.weight")));
            assert_eq!(shard_of(name), shard_of(&format!("{module}.biases")));
        }
    }
}

#[test]
fn a_shard_of_no_bytes_still_holds_one_parameter() {
    let folder = Folder::new(&Tiny::new(BlockFormat::F16).build());
    assert_eq!(run(&folder, Target::Keep, 0).unwrap().n_shards, 20);
}

#[test]
fn tensors_start_at_a_cache_line() {
    let folder = Folder::new(&Tiny::new(BlockFormat::F16).build());
    run(&folder, Target::Keep, SHARD_BYTES_DEFAULT).unwrap();
    let bytes = std::fs::read(folder.out().join("model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    assert_eq!((8 + header_len) % 64, 0);
}

#[test]
fn progress_rises_to_the_total() {
    let folder = Folder::new(&Tiny::new(BlockFormat::Q4K).build());
    let conversion = Conversion::open(&folder.gguf()).unwrap();
    let plan = conversion.plan(Target::Keep, SHARD_BYTES_DEFAULT).unwrap();
    let mut last_bytes = 0;
    let report = plan
        .run(&folder.out(), &mut |progress| {
            assert!(progress.done_bytes > last_bytes);
            assert_eq!(progress.total_bytes, plan.total_bytes());
            last_bytes = progress.done_bytes;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(last_bytes, report.total_bytes);
}

#[test]
fn rope_scaling_is_carried_over() {
    let of = |change: &dyn Fn(&mut crate::builder::Builder)| {
        let mut gguf = Tiny::new(BlockFormat::F16).build();
        change(&mut gguf);
        convert(&gguf, Target::Keep).config["rope_scaling"].clone()
    };
    assert_eq!(of(&|_| {}), json!(null));
    let linear = of(&|gguf| {
        gguf.set("llama.rope.scaling.type", Typed::string("linear"))
            .set("llama.rope.scaling.factor", Typed::f32(2.5));
    });
    assert_eq!(linear, json!({"rope_type": "linear", "factor": 2.5}));
    let none = of(&|gguf| {
        gguf.set("llama.rope.scaling.type", Typed::string("none"))
            .set("llama.rope.scaling.factor", Typed::f32(2.5));
    });
    assert_eq!(none, json!(null));
    // Theta 500 000, heads of 16: wavelengths 6, 32, 167, 861, 4442, 22 909, 118 142, 609 257.
    let smooth = |wave_len: f64| (8192.0 / wave_len - 1.0) / 3.0;
    let wave_len = std::f64::consts::TAU * 500_000f64.powf(0.5);
    let middle = (1.0 / ((1.0 - smooth(wave_len)) / 32.0 + smooth(wave_len))) as f32;
    let factors = [1.0, 1.0, 1.0, 1.0, middle, 32.0, 32.0, 32.0];
    let llama3 = of(&|gguf| {
        let data = factors.iter().flat_map(|factor: &f32| factor.to_le_bytes()).collect();
        gguf.tensor("rope_freqs.weight", &[8], 0, data);
    });
    let wanted = json!({
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    assert_eq!(llama3, wanted);
}
