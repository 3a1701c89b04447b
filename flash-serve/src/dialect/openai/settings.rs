//! Settings of chat completions and completions.

use std::collections::BTreeMap;

use crate::config::Limits;
use crate::dialect::settings;
use crate::json::{Fields, Invalid, Json};
use crate::request::{ResponseFormat, Sampling};

/// Members that cannot change the output: labels, and hints about storing, caching and speed.
pub(super) const IGNORED: [&str; 11] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prediction",
    "cache_prompt",
    "cache_control",
    "timings_per_token",
];

/// Tokens that can have a bias. Each is applied at every sampled token.
const MAX_BIASES: usize = 4096;

/// Most likely tokens that can be reported at each position.
pub(super) const MAX_TOP_LOGPROBS: usize = 20;

/// Reads sampling settings.
pub(super) fn sampling(fields: &mut Fields) -> Result<Sampling, Invalid> {
    let penalty = settings::repetition_penalty(fields, "repetition_penalty")?;
    // The same, by llama.cpp's name.
    let repeat_penalty = settings::repetition_penalty(fields, "repeat_penalty")?;
    Ok(Sampling {
        repetition_penalty: penalty.or(repeat_penalty),
        logit_bias: logit_bias(fields)?,
        // Any integer is a seed.
        seed: fields.integer("seed")?.map(i64::cast_unsigned),
        ..settings::sampling(fields)?
    })
}

fn logit_bias(fields: &mut Fields) -> Result<BTreeMap<u32, f32>, Invalid> {
    let path = fields.path_of("logit_bias");
    let mut biases = BTreeMap::new();
    let members = fields.raw_object("logit_bias")?.unwrap_or_default();
    settings::at_most(&path, members.len(), MAX_BIASES)?;
    for (token, bias) in members {
        let id: u32 = token.parse().map_err(|_| {
            let token: String = token.chars().take(32).collect();
            Invalid::new(&path, format!("'{token}' is not a token id"))
        })?;
        let bias = match &bias {
            Json::Number(number) => number.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)),
            _ => None,
        };
        let problem = || Invalid::new(format!("{path}.{id}"), "must be a number between -100 and 100");
        biases.insert(id, bias.ok_or_else(problem)? as f32);
    }
    Ok(biases)
}

/// Reads the limit of generated tokens, which has two names.
pub(super) fn max_tokens(fields: &mut Fields, limits: &Limits) -> Result<Option<usize>, Invalid> {
    let old = fields.count("max_tokens", 1, limits.max_tokens)?;
    let new = fields.count("max_completion_tokens", 1, limits.max_tokens)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            Err(fields.invalid("max_tokens", "differs from max_completion_tokens; give one of them"))
        }
        _ => Ok(new.or(old)),
    }
}

/// Reads `stream` and `stream_options`. Returns whether to stream, and whether to end with the usage.
pub(super) fn stream(fields: &mut Fields) -> Result<(bool, bool), Invalid> {
    let is_stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(mut options) = fields.object("stream_options")? else { return Ok((is_stream, false)) };
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.finish(&["include_obfuscation"])?;
    Ok((is_stream, include_usage))
}

/// Reads `response_format`. `regex` and `lark` are additions to OpenAI's.
pub(super) fn response_format(fields: &mut Fields) -> Result<ResponseFormat, Invalid> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(ResponseFormat::Text) };
    let read = match format.required_string("type")?.as_str() {
        "text" => ResponseFormat::Text,
        "json_object" => ResponseFormat::JsonObject,
        "json_schema" => {
            let missing = format.invalid("json_schema", "is required");
            let mut json_schema = format.object("json_schema")?.ok_or(missing)?;
            let schema = json_schema.take("schema");
            let schema = schema.ok_or_else(|| json_schema.invalid("schema", "is required"))?;
            json_schema.finish(&["name", "description", "strict"])?;
            ResponseFormat::JsonSchema(schema.into())
        }
        "regex" => ResponseFormat::Regex(format.required_string("regex")?.into()),
        "lark" => ResponseFormat::Lark(format.required_string("lark")?.into()),
        _ => return Err(format.invalid("type", "must be text, json_object, json_schema, regex or lark")),
    };
    format.finish(&[])?;
    Ok(read)
}
