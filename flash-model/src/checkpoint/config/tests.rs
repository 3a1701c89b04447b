use serde_json::json;

use super::*;

fn config(json: &Value) -> Config {
    Config::parse("config.json".into(), &json.to_string()).unwrap()
}

#[derive(Debug, Deserialize)]
struct Args {
    hidden_size: i32,
    #[serde(default)]
    attention_bias: bool,
    inner: Option<Inner>,
}

#[derive(Debug, Deserialize)]
struct Inner {
    length: i32,
}

#[test]
fn a_git_lfs_pointer_is_reported_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 700\n";
    fs::write(dir.path().join(FILE), pointer).unwrap();
    let error = Config::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("Git LFS pointer"), "{error}");
}

#[test]
fn null_is_absent_at_every_depth() {
    let args: Args = config(&json!({
        "model_type": "llama", "hidden_size": 8, "attention_bias": null, "inner": { "length": 1, "other": null },
    }))
    .args()
    .unwrap();
    assert!(!args.attention_bias);
    let whole = config(&json!({ "model_type": "llama", "hidden_size": 4096.0, "text_config": {} }));
    assert_eq!(whole.args::<Args>().unwrap().hidden_size, 4096);
    assert_eq!((args.hidden_size, args.inner.unwrap().length), (8, 1));
}

#[test]
fn wrong_fields_are_named_with_their_path() {
    let config = config(&json!({ "model_type": "llama", "hidden_size": 8, "inner": { "length": "long" } }));
    let error = config.args::<Args>().unwrap_err().to_string();
    assert!(error.contains("inner.length is \"long\""), "{error}");
    let error = Config::parse("config.json".into(), r#"{"model_type": "llama"}"#).unwrap();
    let error = error.args::<Args>().unwrap_err().to_string();
    assert!(error.contains("hidden_size is missing"), "{error}");
}

#[test]
fn unread_fields_are_refused_by_name() {
    let config = config(&json!({ "model_type": "llama", "hidden_size": 8, "attn_scale": 2.0, "notes": "x" }));
    config.args::<Args>().unwrap();
    let error = config.refuse_unread().unwrap_err();
    assert!(matches!(&error, ModelError::UnknownField { field, .. } if field == "attn_scale"), "{error}");
}

#[test]
fn settings_of_the_text_model_are_read_from_its_object() {
    let config = config(&json!({
        "model_type": "gemma3", "hidden_size": 1, "attn_bias": 1, "text_config": { "hidden_size": 8, "attn_scale": 2.0 },
    }));
    assert_eq!(config.args::<Args>().unwrap().hidden_size, 8);
    assert_eq!(config.top_args::<Args>().unwrap().hidden_size, 1);
    let error = config.refuse_unread().unwrap_err().to_string();
    assert!(error.contains("text_config.attn_scale"), "{error}");
}

#[test]
fn weights_of_other_methods_are_refused_with_the_command_that_may_convert_them() {
    for method in ["awq", "gptq", "fp8", "bitsandbytes", "compressed-tensors"] {
        let json = json!({ "model_type": "llama", "quantization_config": { "quant_method": method, "bits": 4, "group_size": 128 } });
        let error = Config::parse("config.json".into(), &json.to_string()).unwrap_err().to_string();
        assert!(error.contains(method) && error.contains("convert --hf"), "{error}");
    }
}
