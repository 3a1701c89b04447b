//! Detection of the formats of outputs.

use std::fs;

use flash_text::output::{CallFormat, OutputFormat, OutputParser, ParserOptions, Piece, ReasoningFormat};
use flash_text::{ChatTemplate, Detokenizer, Tokenizer};

mod support;

use CallFormat::{DeepSeek, Dsml, FunctionGemma, Gemma4, Glm, Hermes, Kimi, Llama, QwenXml};
use ReasoningFormat::Think;

#[test]
fn each_family_is_detected_by_its_template_or_tokens() {
    let hermes =
        "{%- for tool_call in message.tool_calls %}{{- '<tool_call>\\n{\"name\": \"' }}{{- tool_call.name }}";
    for (family, template, tokens, reasoning, calls) in [
        ("Qwen2.5", hermes, &["<tool_call>"][..], None, Some(Hermes)),
        ("Qwen3", &format!("{hermes}{{{{- '<think>\\n\\n</think>' }}}}"), &[], Some(Think), Some(Hermes)),
        ("Qwen3 2507", hermes, &["<think>", "</think>"], Some(Think), Some(Hermes)),
        (
            "Qwen3-Coder",
            "<tool_call>\n<function=example_function_name>\n<parameter=p>",
            &[],
            None,
            Some(QwenXml),
        ),
        ("Llama 3.1", "{{- '<|python_tag|>' + tool_call.name }}", &[], None, Some(Llama)),
        ("Llama 3.2", "{%- if tools is not none %}{\"parameters\"}", &["<|python_tag|>"], None, Some(Llama)),
        ("Llama 3", "{{ '<|start_header_id|>' }}", &["<|python_tag|>"], None, None),
        (
            "gpt-oss",
            "{{- '<|channel|>analysis<|message|>' }}",
            &["<think>"],
            Some(ReasoningFormat::Harmony),
            Some(CallFormat::Harmony),
        ),
        (
            "DeepSeek R1",
            "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' '</think>'",
            &[],
            Some(Think),
            Some(DeepSeek),
        ),
        ("DeepSeek V3.2", "", &["｜DSML｜", "<think>", "</think>"], Some(Think), Some(Dsml)),
        ("Kimi K2", "<|tool_calls_section_begin|>", &[], None, Some(Kimi)),
        ("GLM 4.5", "<tool_call>{name}\n<arg_key> <think></think>", &[], Some(Think), Some(Glm)),
        (
            "Mistral",
            "{{- '[TOOL_CALLS]' }}",
            &["[THINK]"],
            Some(ReasoningFormat::Mistral),
            Some(CallFormat::Mistral),
        ),
        ("Gemma 4", "<|tool_call>call: <|channel>thought", &[], Some(ReasoningFormat::Gemma4), Some(Gemma4)),
        ("FunctionGemma", "<start_function_call>call:", &[], None, Some(FunctionGemma)),
        ("a base model", "", &[], None, None),
    ] {
        let format = OutputFormat::detect(template, |token| tokens.contains(&token));
        assert_eq!(format, OutputFormat { reasoning, calls }, "{family}");
    }
}

#[test]
fn a_prompt_may_open_reasoning() {
    let format = OutputFormat { reasoning: Some(Think), calls: None };
    assert!(format.prompt_opens_reasoning("<|im_start|>assistant\n<think>\n"));
    assert!(!format.prompt_opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    assert!(!format.prompt_opens_reasoning("<|im_start|>assistant\n"));
    assert!(!OutputFormat::none().prompt_opens_reasoning("<think>"));
    let harmony = OutputFormat { reasoning: Some(ReasoningFormat::Harmony), calls: None };
    assert!(!harmony.prompt_opens_reasoning("<|start|>assistant<|channel|>"));
}

/// Creates a model directory of a kind whose special tokens are the markers of a format.
fn model(kind: &str, format: OutputFormat) -> tempfile::TempDir {
    let dir = support::dir_of(kind);
    let tokens: Vec<_> = format
        .markers()
        .iter()
        .map(|marker| serde_json::json!({"content": marker, "special": true}))
        .collect();
    let config =
        serde_json::json!({"additional_special_tokens": tokens, "chat_template": "{{ '</think>' }}"});
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn the_source_of_the_template_and_the_vocabulary_give_the_format() {
    let dir = model("qwen", OutputFormat { reasoning: None, calls: Some(Dsml) });
    let (template, tokenizer) =
        (ChatTemplate::open(dir.path()).unwrap(), Tokenizer::open(dir.path()).unwrap());
    assert_eq!(template.source(), "{{ '</think>' }}");
    let format = OutputFormat::detect(template.source(), |token| tokenizer.token_id(token).is_some());
    assert_eq!(format, OutputFormat { reasoning: Some(Think), calls: Some(Dsml) });
    // One tag alone is not a format.
    let tokenizer = support::open("qwen");
    assert!(tokenizer.token_id("<think>").is_some());
    let format = OutputFormat::detect("", |token| tokenizer.token_id(token).is_some());
    assert_eq!(format, OutputFormat::none());
}

#[test]
fn markers_that_are_special_tokens_reach_the_parser() {
    let (reasoning, arguments) = (Some(Think), "{\"a\": \"é 你好\"}");
    for (calls, input) in [
        (Kimi, format!("<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{arguments}<|tool_call_end|><|tool_calls_section_end|>")),
        (DeepSeek, format!("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜><｜tool▁calls▁end｜>")),
        (Dsml, "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">é 你好</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>".to_owned()),
        (CallFormat::Mistral, format!("[TOOL_CALLS]f[ARGS]{arguments}")),
        (CallFormat::Harmony, format!("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{arguments}<|call|>")),
        (Gemma4, "<|tool_call>call:f{a:<|\"|>é 你好<|\"|>}<tool_call|>".to_owned()),
        (Glm, "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>é 你好</arg_value>\n</tool_call>".to_owned()),
        (Llama, format!("<|python_tag|>{{\"name\": \"f\", \"parameters\": {arguments}}}")),
        (Hermes, format!("<tool_call>{{\"name\": \"f\", \"arguments\": {arguments}}}</tool_call>")),
    ] {
        let reasoning = if calls == CallFormat::Harmony { Some(ReasoningFormat::Harmony) } else { reasoning };
        let format = OutputFormat { reasoning, calls: Some(calls) };
        for kind in ["qwen", "deepseek"] {
            let dir = model(kind, format);
            let tokenizer = Tokenizer::open(dir.path()).unwrap();
            let mut detokenizer = Detokenizer::with_visible(&tokenizer, &format.markers());
            let mut parser = OutputParser::new(format, &[], ParserOptions::default());
            let mut pieces = Vec::new();
            for id in tokenizer.encode(&input, false).unwrap() {
                pieces.extend(parser.push(&detokenizer.push(id).unwrap().unwrap_or_default()));
            }
            pieces.extend(parser.push(&detokenizer.finish().unwrap()));
            pieces.extend(parser.finish());
            let pieces = Piece::merge(pieces);
            assert!(pieces.contains(&Piece::CallEnd), "{calls:?}, {kind}: {pieces:?}");
            assert!(pieces.contains(&Piece::CallArguments(arguments.into())), "{calls:?}, {kind}: {pieces:?}");
        }
    }
}
