//! RoPE settings of a configuration, in all layouts.
//!
//! Older configurations have `rope_theta`, `rope_scaling` and `partial_rotary_factor`; transformers 5 writes all of
//! them into `rope_parameters`, one object for all layers or one for each layer type. A setting that occurs twice must
//! have the same value.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde_json::{Map, Value};

use super::scaling::{RopeScaling, RopeType};
use crate::ModelError;
use crate::checkpoint::config::Config;

/// Values of `layer_types` that may have RoPE settings of their own.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Fields of the configuration that hold RoPE settings.
const OBJECTS: [&str; 2] = ["rope_scaling", "rope_parameters"];

/// RoPE settings shared by some layers.
#[derive(Debug, Clone)]
pub(crate) struct RopeSettings {
    theta: Option<f32>,
    /// Fraction of a head that is rotated; `None` if neither configuration nor family gives it.
    partial: Option<f32>,
    /// Whether the family supports partial rotation.
    has_partial: bool,
    /// Whether adjacent elements form a pair, instead of elements half a head apart.
    pub traditional: bool,
    pub scaling: RopeScaling,
    /// `max_position_embeddings`.
    pub max_positions: Option<usize>,
}

/// Defaults of a family for settings that a configuration leaves out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RopeDefaults {
    /// `None` if the configuration must give it.
    pub theta: Option<f32>,
    /// Fraction of a head that is rotated; `None` in families without partial rotation.
    pub partial: Option<f32>,
    /// Whether adjacent elements form a pair.
    pub traditional: bool,
    /// Whether the family reads `rope_traditional`.
    pub reads_traditional: bool,
    /// `original_max_position_embeddings`, if the scaling has none.
    pub original_positions: Option<f32>,
    /// `max_position_embeddings`.
    pub max_positions: Option<usize>,
}

impl RopeDefaults {
    /// Defaults of a family that reads `rope_traditional`.
    pub(crate) fn allowing_traditional() -> Self {
        Self { reads_traditional: true, ..Self::default() }
    }
}

/// RoPE settings by layer type.
#[derive(Debug)]
pub(crate) struct RopeLayers {
    pub full: RopeSettings,
    /// `None` if the configuration has one set of settings for all layers.
    pub sliding: Option<RopeSettings>,
}

/// RoPE fields of a configuration.
#[derive(Debug, Deserialize)]
struct Fields {
    rope_theta: Option<f32>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    partial_rotary_factor: Option<f32>,
    rope_traditional: Option<bool>,
    original_max_position_embeddings: Option<f32>,
    max_position_embeddings: Option<usize>,
}

impl RopeSettings {
    /// Reads the settings of a model with the same RoPE in all layers.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for settings that are unknown, contradict each other, or differ by layer type.
    pub(crate) fn from_config(config: &Config, defaults: RopeDefaults) -> Result<Self, ModelError> {
        let RopeLayers { full, sliding } = RopeLayers::from_config(config, defaults)?;
        match sliding {
            Some(sliding) if sliding.theta != full.theta || sliding.scaling != full.scaling => {
                let expected = format!("{} has the same RoPE in all layers", config.model_type());
                Err(config.field_error("rope_parameters", &"different by layer type", expected))
            }
            _ => Ok(full),
        }
    }

    /// Returns the base of the frequencies.
    pub(super) fn theta(&self, config: &Config) -> Result<f32, ModelError> {
        match self.theta {
            Some(theta) if theta.is_finite() && theta > 0.0 => Ok(theta),
            given => {
                let given = given.map_or_else(|| "missing".to_owned(), |theta| theta.to_string());
                Err(config.field_error("rope_theta", &given, "it must be a positive number"))
            }
        }
    }

    /// Returns the number of rotated dimensions of a head.
    pub(super) fn dims(&self, head_dim: i32, config: &Config) -> Result<i32, ModelError> {
        let part = self.partial.unwrap_or(1.0);
        if !self.has_partial && part != 1.0 {
            let expected = format!("{} supports only 1", config.model_type());
            return Err(config.field_error("partial_rotary_factor", &part, expected));
        }
        let dims = (head_dim as f32 * part) as i32;
        if !(2..=head_dim).contains(&dims) || dims % 2 != 0 {
            let expected = "the rotated dimensions must be even, and from 2 to head_dim";
            return Err(config.field_error("partial_rotary_factor", &part, expected));
        }
        Ok(dims)
    }
}

impl RopeLayers {
    /// Reads the settings of each layer type.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for settings that are unknown or contradict each other.
    pub(crate) fn from_config(config: &Config, defaults: RopeDefaults) -> Result<Self, ModelError> {
        let fields: Fields = config.args()?;
        let objects = [&fields.rope_scaling, &fields.rope_parameters].map(Option::as_ref);
        let is_nested = |value: &Value| value.as_object().is_some_and(|object| object.contains_key(FULL));
        let is_by_layer = objects.iter().flatten().any(|value| is_nested(value));
        let of = |layer_type, fields: &Fields| {
            let given = merged(layer_type, objects, config)?;
            RopeSettings::from_parts(given, fields, defaults, config)
        };
        let full = of(FULL, &fields)?;
        // Fields outside of the objects apply to full-attention layers.
        let own = Fields {
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
            partial_rotary_factor: fields.partial_rotary_factor,
            ..fields
        };
        let sliding = is_by_layer.then(|| of(SLIDING, &own)).transpose()?;
        Ok(Self { full, sliding })
    }
}

impl RopeSettings {
    /// Combines the settings of an object with the fields outside of it and the defaults.
    fn from_parts(
        given: RopeScaling,
        fields: &Fields,
        defaults: RopeDefaults,
        config: &Config,
    ) -> Result<Self, ModelError> {
        let theta = agreed("rope_theta", fields.rope_theta, given.rope_theta, config)?;
        let partial = agreed(
            "partial_rotary_factor",
            fields.partial_rotary_factor,
            given.partial_rotary_factor,
            config,
        )?;
        let field = "original_max_position_embeddings";
        let outside = fields.original_max_position_embeddings;
        let original = agreed(field, outside, given.original_max_position_embeddings, config)?;
        let original = original.or(defaults.original_positions);
        let traditional = fields.rope_traditional.unwrap_or(defaults.traditional);
        if traditional != defaults.traditional && !defaults.reads_traditional {
            let expected = format!("{} supports only {}", config.model_type(), defaults.traditional);
            return Err(config.field_error("rope_traditional", &traditional, expected));
        }
        let mut scaling = given;
        scaling.original_max_position_embeddings = original;
        Ok(Self {
            theta: theta.or(defaults.theta),
            partial: partial.or(defaults.partial),
            has_partial: defaults.partial.is_some(),
            traditional,
            scaling,
            max_positions: fields.max_position_embeddings.or(defaults.max_positions),
        })
    }

    /// Returns the base, if the configuration or its family gives one.
    pub(crate) fn given_theta(&self) -> Option<f32> {
        self.theta
    }

    /// Returns these settings without scaling, and with this base.
    pub(crate) fn unscaled(&self, theta: f32) -> Self {
        Self { theta: Some(theta), scaling: RopeScaling::default(), ..self.clone() }
    }

    /// Reads the settings of full-attention layers, for their limits on positions.
    pub(crate) fn full_attention(config: &Config) -> Result<Self, ModelError> {
        // The family has already checked the settings that positions do not depend on.
        Ok(RopeLayers::from_config(config, RopeDefaults::allowing_traditional())?.full)
    }

    /// Returns the longest context that the model supports: the `trained` one, or the one that RoPE scaling extends the
    /// original context to, if that is longer.
    pub(crate) fn extended_positions(
        &self,
        trained: Option<usize>,
        config: &Config,
    ) -> Result<Option<usize>, ModelError> {
        let Some(trained) = trained else { return Ok(None) };
        let extended = match self.scaling.kind(config)? {
            RopeType::Yarn | RopeType::LongRope => self.scaling.extended_positions(),
            _ => None,
        };
        Ok(Some(trained.max(extended.unwrap_or(0))))
    }

    /// Returns the hard limit of the context length under dynamic NTK scaling, beyond which all cached keys would
    /// change.
    pub(crate) fn positions_max(&self, config: &Config) -> Result<Option<usize>, ModelError> {
        let is_dynamic = self.scaling.kind(config)? == RopeType::Dynamic;
        match (is_dynamic, self.max_positions) {
            (false, _) => Ok(None),
            (true, Some(max_positions)) => Ok(Some(max_positions)),
            (true, None) => {
                let expected = "dynamic RoPE needs it";
                Err(config.field_error("max_position_embeddings", &"missing", expected))
            }
        }
    }
}

/// Returns a setting that may occur outside and inside of an object, or an error if the two differ.
fn agreed(
    field: &str,
    outside: Option<f32>,
    inside: Option<f32>,
    config: &Config,
) -> Result<Option<f32>, ModelError> {
    match (outside, inside) {
        (Some(outside), Some(inside)) if outside != inside => {
            let expected = format!("it is {inside} in rope_parameters or rope_scaling");
            Err(config.field_error(field, &outside, expected))
        }
        _ => Ok(outside.or(inside)),
    }
}

/// Merges the settings of a layer type from both objects.
fn merged(
    layer_type: &str,
    objects: [Option<&Value>; 2],
    config: &Config,
) -> Result<RopeScaling, ModelError> {
    let mut all: Map<String, Value> = Map::new();
    for (name, value) in OBJECTS.iter().zip(objects) {
        let Some(value) = value else { continue };
        let Some(object) = value.as_object() else {
            return Err(config.field_error(name, value, "it must be an object"));
        };
        let object = match object.get(FULL).or_else(|| object.get(SLIDING)) {
            None => object,
            Some(_) => {
                if let Some(other) = object.keys().find(|key| ![FULL, SLIDING].contains(&key.as_str())) {
                    let expected = format!("the known layer types are {FULL} and {SLIDING}");
                    return Err(config.field_error(name, other, expected));
                }
                match object.get(layer_type).map(Value::as_object) {
                    Some(Some(object)) => object,
                    _ => {
                        let expected = format!("it must have an object for {layer_type}");
                        return Err(config.field_error(name, value, expected));
                    }
                }
            }
        };
        for (key, value) in object {
            // Older configurations use `type`.
            let key = if key == "type" { "rope_type" } else { key };
            // M-RoPE equals RoPE for text, which has the same position on all axes.
            let value = if value == "mrope" { &Value::from("default") } else { value };
            match all.insert(key.to_owned(), value.clone()) {
                Some(before) if before != *value => {
                    let expected = format!("another object sets it to {before}");
                    return Err(config.field_error(&format!("{name}.{key}"), value, expected));
                }
                _ => {}
            }
        }
    }
    let parsed = serde_path_to_error::deserialize(Value::Object(all).into_deserializer());
    parsed.map_err(|error: serde_path_to_error::Error<serde_json::Error>| {
        let name = if objects[1].is_some() { OBJECTS[1] } else { OBJECTS[0] };
        let path = match error.path().to_string() {
            path if path == "." => name.to_owned(),
            path => format!("{name}.{path}"),
        };
        config.field_error(&path, &"invalid", error.into_inner().to_string())
    })
}
