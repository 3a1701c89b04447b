//! Quantisation of Hugging Face checkpoints, checked against mlx-lm.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flash_convert::{Checkpoint, ConvertError, Quantized, SHARD_BYTES_DEFAULT};
use flash_kernels::FloatType;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// mlx-lm's results for synthetic checkpoints; `make_quantized.py` regenerates them.
const GOLDENS: &str = include_str!("../goldens/quantized.json");

#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Case>,
}

#[derive(Deserialize, Clone)]
struct Case {
    config: Value,
    dtype: String,
    bits: u32,
    group_size: usize,
    /// Names and shapes of the checkpoint's tensors, in the order that seeds their values, with dtypes that differ from
    /// the common one.
    tensors: Vec<String>,
    /// config.json of the quantised model.
    written: Value,
    /// Dtype, shape and hash of each tensor of the quantised model.
    quantized: Map<String, Value>,
}

/// A temporary folder with a checkpoint and the output.
struct Folder {
    dir: tempfile::TempDir,
}

fn cases() -> Vec<Case> {
    serde_json::from_str::<Goldens>(GOLDENS).unwrap().cases
}

fn case(model_type: &str) -> Case {
    cases().into_iter().find(|case| case.config["model_type"] == model_type).unwrap()
}

/// Returns 40 random bits (`SplitMix64`), the same as `make_quantized.py`.
fn random(tensor_idx: usize, value_idx: usize) -> u64 {
    let seed = (value_idx as u64).wrapping_add((tensor_idx as u64) << 32);
    let z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    let z = z ^ z >> 31;
    z >> 40
}

/// Returns encoded random values between -1/8 and 1/8.
fn float(float: FloatType, tensor_idx: usize, n_values: usize) -> Vec<u8> {
    let value = |idx| (random(tensor_idx, idx) as f32 / (1 << 23) as f32 - 1.0) / 8.0;
    let values: Vec<f32> = (0..n_values).map(value).collect();
    let mut bytes = vec![0; n_values * float.size_bytes()];
    float.encode_into(&values, &mut bytes).unwrap();
    bytes
}

/// A tensor of a checkpoint.
#[derive(Clone)]
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Case {
    /// Returns the tensors of the checkpoint.
    fn tensors(&self) -> Vec<Tensor> {
        let tensors = self.tensors.iter().enumerate().map(|(tensor_idx, line)| {
            let (name, rest) = line.split_once(' ').unwrap();
            let (shape, dtype) = rest.split_at(rest.find(']').unwrap() + 1);
            let shape: Vec<usize> = serde_json::from_str(shape).unwrap();
            let dtype = if dtype.is_empty() { &self.dtype } else { dtype.trim_start() };
            let n_values = shape.iter().product();
            let any = || (0..n_values).map(|idx| random(tensor_idx, idx) as u8).collect();
            let (dtype, bytes) = match dtype {
                "F32" => (Dtype::F32, float(FloatType::F32, tensor_idx, n_values)),
                "F16" => (Dtype::F16, float(FloatType::F16, tensor_idx, n_values)),
                "BF16" => (Dtype::BF16, float(FloatType::BF16, tensor_idx, n_values)),
                "U8" => (Dtype::U8, any()),
                "I32" => {
                    let words = (0..n_values).flat_map(|idx| (random(tensor_idx, idx) as u32).to_le_bytes());
                    (Dtype::I32, words.collect())
                }
                "F8_E4M3" => (Dtype::F8_E4M3, any()),
                other => panic!("{other}"),
            };
            Tensor { name: name.to_owned(), dtype, shape, bytes }
        });
        tensors.collect()
    }
}

impl Folder {
    /// Writes the checkpoint of a case, with `tensors_a_shard` tensors in each shard.
    fn new(case: &Case, tensors_a_shard: usize) -> Self {
        Self::of(&case.config, &case.tensors(), tensors_a_shard)
    }

    fn of(config: &Value, tensors: &[Tensor], tensors_a_shard: usize) -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(folder.hf()).unwrap();
        folder.write("config.json", config.to_string().as_bytes());
        let n_shards = tensors.len().div_ceil(tensors_a_shard);
        for (shard_idx, tensors) in tensors.chunks(tensors_a_shard).enumerate() {
            let views = tensors.iter().map(|Tensor { name, dtype, shape, bytes }| {
                (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
            });
            let name = match n_shards {
                1 => "model.safetensors".to_owned(),
                n => format!("model-{:05}-of-{n:05}.safetensors", shard_idx + 1),
            };
            folder.write(&name, &safetensors::serialize(views, None).unwrap());
        }
        folder
    }

    fn hf(&self) -> PathBuf {
        self.dir.path().join("hf")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.hf().join(name), bytes).unwrap();
    }

    fn quantize(&self, bits: u32, group_size: usize, shard_bytes: u64) -> Result<Quantized, ConvertError> {
        let checkpoint = Checkpoint::open(&self.hf())?;
        let plan = checkpoint.quantize(bits, group_size, shard_bytes)?;
        plan.run(&self.out(), &mut |_| ControlFlow::Continue(()))
    }

    #[track_caller]
    fn error(&self) -> ConvertError {
        let error = self.quantize(4, 64, SHARD_BYTES_DEFAULT).unwrap_err();
        assert!(!self.out().exists(), "nothing is left");
        error
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Describes the tensors of a model like the goldens.
fn described(dir: &Path) -> Map<String, Value> {
    let mut described = Map::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let bytes = fs::read(path).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
                let hash: String =
                    Sha256::digest(view.data()).iter().map(|byte| format!("{byte:02x}")).collect();
                let shape: Vec<_> = view.shape().iter().map(ToString::to_string).collect();
                let text = format!("{:?} [{}] {hash}", view.dtype(), shape.join(", "));
                assert_eq!(described.insert(name.to_owned(), text.into()), None, "{name} twice");
            }
        }
    }
    described
}

#[test]
fn every_tensor_is_bit_for_bit_what_mlx_lm_makes_of_it() {
    for case in cases() {
        let folder = Folder::new(&case, usize::MAX);
        let report = folder.quantize(case.bits, case.group_size, SHARD_BYTES_DEFAULT).unwrap();
        let model_type = &case.config["model_type"];
        let found = described(&folder.out());
        for (name, wanted) in &case.quantized {
            assert_eq!(found.get(name), Some(wanted), "{model_type}: {name}");
        }
        assert_eq!(found.len(), case.quantized.len(), "{model_type}");
        assert_eq!(json(&folder.out().join("config.json")), case.written, "{model_type}");
        let count = |suffix| found.keys().filter(|name| name.ends_with(suffix)).count();
        let (n_quantized, n_biases) = (count(".scales"), count(".biases"));
        let n_parameters = found.len() - n_quantized - n_biases;
        assert_eq!((report.n_quantized, report.n_parameters), (n_quantized, n_parameters));
    }
}

#[test]
fn shards_on_either_side_change_no_tensor() {
    for model_type in ["qwen3_moe", "gpt_oss", "deepseek_v3", "qwen3_5_moe"] {
        let case = case(model_type);
        let folder = Folder::new(&case, 3);
        let report = folder.quantize(case.bits, case.group_size, 10_000).unwrap();
        assert!(report.n_shards > 2);
        assert_eq!(described(&folder.out()), case.quantized);
        let index = json(&folder.out().join("model.safetensors.index.json"));
        assert_eq!(index["metadata"]["total_size"], report.total_bytes);
        assert_eq!(index["weight_map"].as_object().unwrap().len(), case.quantized.len());
    }
}

#[test]
fn mxfp4_is_recognised_by_tensors_alone() {
    let mut case = case("gpt_oss");
    case.config.as_object_mut().unwrap().remove("quantization_config");
    let folder = Folder::new(&case, usize::MAX);
    folder.quantize(case.bits, case.group_size, SHARD_BYTES_DEFAULT).unwrap();
    assert_eq!(described(&folder.out()), case.quantized);
    assert_eq!(json(&folder.out().join("config.json")), case.written);
}

#[test]
fn numbers_outside_json_are_written_as_mlx_lm_writes_them() {
    let case = case("nemotron_h");
    let folder = Folder::new(&case, usize::MAX);
    let tagged = "{\"__float__\":\"Infinity\"}";
    let text = case.config.to_string();
    assert!(text.contains(tagged));
    folder.write("config.json", text.replace(tagged, "Infinity").as_bytes());
    folder.quantize(case.bits, case.group_size, SHARD_BYTES_DEFAULT).unwrap();
    assert_eq!(json(&folder.out().join("config.json")), case.written);
}

#[test]
fn tokenizer_and_generation_settings_are_taken_over() {
    let folder = Folder::new(&case("llama"), usize::MAX);
    folder.write("tokenizer.json", b"{\"version\": 1}");
    folder.write("chat_template.jinja", b"{{ messages }}");
    folder.write("generation_config.json", b"{\"eos_token_id\": [1, 2]}");
    folder.write("README.md", b"# No part of a model");
    folder.quantize(4, 64, SHARD_BYTES_DEFAULT).unwrap();
    let read = |name: &str| fs::read(folder.out().join(name)).unwrap();
    assert_eq!(read("tokenizer.json"), b"{\"version\": 1}");
    assert_eq!(read("chat_template.jinja"), b"{{ messages }}");
    assert_eq!(json(&folder.out().join("config.json"))["eos_token_id"], json!([1, 2]));
    assert!(!folder.out().join("README.md").exists());
}

#[test]
fn a_head_that_config_json_does_not_call_tied_is_kept_and_recorded() {
    let mut case = case("llama");
    let mut tensors = case.tensors();
    let embedding = tensors.iter().find(|tensor| tensor.name == "model.embed_tokens.weight").unwrap();
    let head = Tensor {
        name: "lm_head.weight".into(),
        bytes: embedding.bytes.clone(),
        shape: embedding.shape.clone(),
        ..*embedding
    };
    tensors.retain(|tensor| tensor.name != head.name);
    tensors.push(head);
    let config = case.config.as_object_mut().unwrap();
    config.remove("tie_word_embeddings");
    let folder = Folder::of(&case.config, &tensors, usize::MAX);
    folder.quantize(4, 64, SHARD_BYTES_DEFAULT).unwrap();
    assert!(described(&folder.out()).contains_key("lm_head.weight"));
    assert_eq!(json(&folder.out().join("config.json"))["tie_word_embeddings"], json!(false));

    let config = case.config.as_object_mut().unwrap();
    config.insert("tie_word_embeddings".into(), json!(true));
    let folder = Folder::of(&case.config, &tensors, usize::MAX);
    folder.quantize(4, 64, SHARD_BYTES_DEFAULT).unwrap();
    assert!(!described(&folder.out()).contains_key("lm_head.weight"));
}

#[test]
fn checkpoints_that_cannot_be_quantised_are_refused() {
    let case = case("llama");
    let with = |field: &str, value: Value| {
        let mut case = case.clone();
        case.config[field] = value;
        Folder::new(&case, usize::MAX).error()
    };
    let error = with("model_type", json!("hyena"));
    assert!(matches!(&error, ConvertError::ModelType { found, .. } if found == "hyena"), "{error}");
    let error = with("quantization_config", json!({"quant_method": "fp8"}));
    assert!(matches!(error, ConvertError::Quantized { field: "quantization_config", .. }), "{error}");

    let folder = Folder::new(&case, usize::MAX);
    folder.write("config.json", b"{");
    assert!(matches!(folder.error(), ConvertError::Json { .. }));
    fs::remove_file(folder.hf().join("config.json")).unwrap();
    assert!(matches!(folder.error(), ConvertError::Open { .. }));

    let folder = Folder::new(&case, usize::MAX);
    folder.write("model.safetensors", b"no header");
    assert!(matches!(folder.error(), ConvertError::Checkpoint { .. }));
    let bytes = [0; 64];
    let view = TensorView::new(Dtype::I8, vec![1, 64], &bytes).unwrap();
    folder.write("model.safetensors", &safetensors::serialize([("w.weight", view)], None).unwrap());
    let error = folder.error();
    assert!(matches!(&error, ConvertError::TensorDtype { tensor, .. } if tensor == "w.weight"), "{error}");

    let folder = Folder::new(&case, usize::MAX);
    let error = folder.quantize(7, 64, SHARD_BYTES_DEFAULT).unwrap_err();
    assert!(matches!(error, ConvertError::Target { .. }), "{error}");
}

#[test]
fn a_value_that_is_not_finite_is_named_with_its_index() {
    let case = case("llama");
    let mut tensors = case.tensors();
    let name = "model.layers.1.mlp.up_proj.weight";
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
    tensor.bytes[200..202].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    let folder = Folder::of(&case.config, &tensors, usize::MAX);
    let error = folder.error();
    let ConvertError::NotFinite { tensor, value_idx, .. } = error else { panic!("{error}") };
    assert_eq!((tensor.as_str(), value_idx), (name, 100));
}

#[test]
fn incomplete_or_mismatched_experts_are_refused() {
    let case = case("mixtral");
    let of = |tensors: &[Tensor]| Folder::of(&case.config, tensors, usize::MAX).error();
    let expert = "model.layers.1.block_sparse_moe.experts.1.w2.weight";
    let mut tensors = case.tensors();
    tensors.retain(|tensor| tensor.name != expert);
    let error = of(&tensors);
    assert!(matches!(&error, ConvertError::Experts { wanted: Some(3), found: 2, .. }), "{error}");

    let mut tensors = case.tensors();
    tensors.iter_mut().find(|tensor| tensor.name == expert).unwrap().shape.swap(0, 1);
    let error = of(&tensors);
    assert!(matches!(&error, ConvertError::ExpertShape { tensor, .. } if tensor == expert), "{error}");

    let mut more = case.clone();
    more.config["num_local_experts"] = json!(u64::MAX);
    let error = Folder::new(&more, usize::MAX).error();
    assert!(matches!(&error, ConvertError::Experts { found: 3, .. }), "{error}");
}

/// Returns the error of opening the checkpoint of a case after changing one tensor.
#[track_caller]
fn error_with(model_type: &str, name: &str, change: impl FnOnce(&mut Tensor)) -> ConvertError {
    let case = case(model_type);
    let mut tensors = case.tensors();
    change(tensors.iter_mut().find(|tensor| tensor.name == name).unwrap());
    Folder::of(&case.config, &tensors, usize::MAX).error()
}

/// Returns a change that shortens a tensor by one along `axis`.
fn shorten(axis: usize) -> impl FnOnce(&mut Tensor) {
    move |tensor| {
        let n_bytes = tensor.bytes.len();
        tensor.bytes.truncate(n_bytes - n_bytes / tensor.shape[axis]);
        tensor.shape[axis] -= 1;
    }
}

#[test]
fn fp8_weights_without_matching_scales_are_refused() {
    let scales = "model.layers.1.self_attn.o_proj.weight_scale_inv";
    let error = error_with("deepseek_v3", scales, |tensor| "scales".clone_into(&mut tensor.name));
    assert!(matches!(&error, ConvertError::MissingTensor { tensor, .. } if tensor == scales), "{error}");
    let error = error_with("deepseek_v3", scales, shorten(0));
    assert!(matches!(&error, ConvertError::CheckpointShape { tensor, .. } if tensor == scales), "{error}");
    let error = error_with("deepseek_v3", scales, |tensor| {
        tensor.dtype = Dtype::U32;
    });
    assert!(matches!(&error, ConvertError::TensorDtype { tensor, .. } if tensor == scales), "{error}");
    for config in [
        json!({"quant_method": "fp8", "weight_block_size": [32, 32], "scale_fmt": "ue8m0"}),
        json!({"quant_method": "gptq"}),
    ] {
        let mut case = case("deepseek_v3");
        case.config["quantization_config"] = config;
        let error = Folder::new(&case, usize::MAX).error();
        assert!(matches!(error, ConvertError::Quantized { field: "quantization_config", .. }), "{error}");
    }
    // fp8 is not supported for other model types.
    let error = error_with("llama", "model.norm.weight", |tensor| {
        tensor.dtype = Dtype::F8_E4M3;
        tensor.bytes.truncate(64);
    });
    assert!(matches!(error, ConvertError::TensorDtype { .. }), "{error}");
}

#[test]
fn int4_weights_without_matching_scales_are_refused() {
    let case =
        cases().into_iter().find(|case| case.config["quantization_config"]["format"].is_string()).unwrap();
    let of = |name: &str, change: &dyn Fn(&mut Tensor)| {
        let mut tensors = case.tensors();
        change(tensors.iter_mut().find(|tensor| tensor.name == name).unwrap());
        Folder::of(&case.config, &tensors, usize::MAX).error()
    };
    let scale = "model.layers.1.mlp.experts.2.up_proj.weight_scale";
    let error = of(scale, &|tensor| "scales".clone_into(&mut tensor.name));
    assert!(matches!(&error, ConvertError::MissingTensor { tensor, .. } if tensor == scale), "{error}");
    let error = of(scale, &|tensor| shorten(1)(tensor));
    assert!(matches!(&error, ConvertError::CheckpointShape { tensor, .. } if tensor == scale), "{error}");
    let kv_b = "model.layers.0.self_attn.kv_b_proj.weight";
    let error = of(kv_b, &|tensor| tensor.name += "_packed");
    assert!(
        matches!(&error, ConvertError::TensorDtype { tensor, .. } if tensor.ends_with("_packed")),
        "{error}"
    );
    // Transposing changes the groups of a quantised matrix.
    let mut tensors = case.tensors();
    let matrix = tensors.iter_mut().find(|tensor| tensor.name == kv_b).unwrap();
    let scales = Tensor { name: format!("{kv_b}_scale"), shape: vec![384, 2], ..matrix.clone() };
    *matrix = Tensor {
        name: format!("{kv_b}_packed"),
        dtype: Dtype::I32,
        shape: vec![384, 8],
        bytes: scales.bytes[..384 * 8 * 4].to_vec(),
    };
    tensors.push(Tensor { bytes: scales.bytes[..384 * 2 * 2].to_vec(), ..scales });
    let error = Folder::of(&case.config, &tensors, usize::MAX).error();
    assert!(
        matches!(&error, ConvertError::TensorDtype { tensor, .. } if tensor.ends_with("_packed")),
        "{error}"
    );
    let (up, twice) = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.experts.0.up_proj.weight");
    let error = of(up, &|tensor| twice.clone_into(&mut tensor.name));
    assert!(matches!(error, ConvertError::DuplicateTensor { .. }), "{error}");
}

#[test]
fn duplicate_parameters_are_refused() {
    let name = "model.layers.1.self_attn.embed_q.weight";
    let error = error_with("kimi_k2", "model.norm.weight", |tensor| name.clone_into(&mut tensor.name));
    assert!(matches!(&error, ConvertError::DuplicateTensor { tensor, .. } if tensor == name), "{error}");
}

#[test]
fn kv_projections_that_contradict_config_json_are_refused() {
    for (field, value) in [
        ("num_attention_heads", json!(3)),
        ("qk_nope_head_dim", json!(0)),
        ("v_head_dim", json!(u64::MAX)),
        ("num_attention_heads", json!(u64::MAX)),
    ] {
        let mut case = case("kimi_k2");
        case.config[field] = value;
        let error = Folder::new(&case, usize::MAX).error();
        let ConvertError::CheckpointShape { tensor, .. } = &error else { panic!("{field}: {error}") };
        assert!(tensor.ends_with("kv_b_proj.weight"), "{tensor}");
    }
}

#[test]
fn malformed_mxfp4_blocks_are_refused() {
    let [blocks, scales, bias] =
        ["blocks", "scales", "bias"].map(|part| format!("model.layers.1.mlp.experts.gate_up_proj_{part}"));
    let error = error_with("gpt_oss", &scales, |tensor| "scales".clone_into(&mut tensor.name));
    assert!(matches!(&error, ConvertError::MissingTensor { tensor, .. } if *tensor == scales), "{error}");
    let error = error_with("gpt_oss", &blocks, |tensor| tensor.dtype = Dtype::I8);
    assert!(matches!(&error, ConvertError::TensorDtype { tensor, .. } if *tensor == blocks), "{error}");
    for (name, axis) in [(&blocks, 1), (&blocks, 3), (&scales, 2), (&bias, 1)] {
        let error = error_with("gpt_oss", name, shorten(axis));
        assert!(matches!(&error, ConvertError::CheckpointShape { tensor, .. } if tensor == name), "{error}");
    }
    // Unquantised weights in PyTorch's layout, which mlx-lm does not load either.
    let plain = "model.layers.1.mlp.experts.gate_up_proj";
    let error = error_with("gpt_oss", &bias, |tensor| plain.clone_into(&mut tensor.name));
    assert!(matches!(&error, ConvertError::UnknownTensor { tensor, .. } if tensor == plain), "{error}");
}

#[test]
fn qwen3_5_experts_with_an_odd_number_of_rows_are_refused() {
    let name = "model.language_model.layers.1.mlp.experts.gate_up_proj";
    let error = error_with("qwen3_5_moe", name, shorten(1));
    assert!(matches!(&error, ConvertError::CheckpointShape { tensor, .. } if tensor == name), "{error}");
    let error = error_with("qwen3_5_moe", name, |tensor| tensor.shape = vec![3 * 64, 64]);
    assert!(matches!(&error, ConvertError::CheckpointShape { tensor, .. } if tensor == name), "{error}");
}

#[test]
fn a_quantised_text_model_is_refused() {
    let mut case = case("qwen3_5_moe");
    case.config["text_config"]["quantization_config"] = json!({"quant_method": "fp8"});
    let error = Folder::new(&case, usize::MAX).error();
    assert!(matches!(error, ConvertError::Quantized { field: "quantization_config", .. }), "{error}");
}

#[test]
fn an_interruption_leaves_nothing() {
    let folder = Folder::new(&case("qwen2"), usize::MAX);
    let checkpoint = Checkpoint::open(&folder.hf()).unwrap();
    let plan = checkpoint.quantize(4, 64, SHARD_BYTES_DEFAULT).unwrap();
    let mut last_bytes = 0;
    let error = plan
        .run(&folder.out(), &mut |progress| {
            assert!(progress.done_bytes > last_bytes && progress.total_bytes == plan.total_bytes());
            last_bytes = progress.done_bytes;
            if last_bytes > 20_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap_err();
    assert!(matches!(error, ConvertError::Interrupted { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.dir.path()).unwrap().count(), 1, "only the checkpoint is there");
}
