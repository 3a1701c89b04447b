//! RoPE settings of a configuration, in every spelling.
//!
//! Older configurations have `rope_theta`, `rope_scaling` and `partial_rotary_factor`; transformers 5 writes all of them
//! into `rope_parameters`, in one object for all layers or in one for each type of layer. What two spellings say twice must
//! be the same.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde_json::{Map, Value};

use super::scaling::{Kind, RopeScaling};
use crate::ModelError;
use crate::checkpoint::config::Config;

/// Types of layers that may be rotated differently, as `layer_types` calls them.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The two objects that hold settings.
const OBJECTS: [&str; 2] = ["rope_scaling", "rope_parameters"];

/// RoPE settings of layers that are rotated alike.
#[derive(Debug, Clone)]
pub(crate) struct RopeSettings {
    theta: Option<f32>,
    /// The fraction of a head that is rotated; none if nobody says.
    partial: Option<f32>,
    /// Whether the family rotates parts of heads at all.
    has_partial: bool,
    /// Whether neighbours are paired.
    pub traditional: bool,
    pub scaling: RopeScaling,
    /// `max_position_embeddings`.
    pub max_positions: Option<usize>,
}

/// What a family takes for settings that a configuration leaves out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RopeDefaults {
    /// None if the configuration must say it.
    pub theta: Option<f32>,
    /// The fraction of a head that is rotated; none in families that rotate whole heads only.
    pub partial: Option<f32>,
    pub traditional: bool,
    /// Whether `rope_traditional` may say otherwise.
    pub reads_traditional: bool,
    /// `original_max_position_embeddings`, beside that of the scaling.
    pub original_positions: Option<f32>,
    /// `max_position_embeddings`.
    pub max_positions: Option<usize>,
}

impl RopeDefaults {
    /// Those of a family that heeds `rope_traditional`.
    pub(crate) fn either_pairs() -> Self {
        Self { reads_traditional: true, ..Self::default() }
    }
}

/// RoPE settings by type of layer.
#[derive(Debug)]
pub(crate) struct RopeLayers {
    pub full: RopeSettings,
    /// None if the configuration has only one set of settings.
    pub sliding: Option<RopeSettings>,
}

/// Fields of a configuration beside its objects.
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
    /// Reads the settings of a model whose layers are all rotated alike.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for settings that contradict each other or are not known, or that differ by type of
    /// layer.
    pub(crate) fn of(config: &Config, defaults: RopeDefaults) -> Result<Self, ModelError> {
        let RopeLayers { full, sliding } = RopeLayers::of(config, defaults)?;
        match sliding {
            Some(sliding) if sliding.theta != full.theta || sliding.scaling != full.scaling => {
                let expected = format!("layers of {} are rotated alike", config.model_type());
                Err(config.field_error("rope_parameters", &"different by type of layer", expected))
            }
            _ => Ok(full),
        }
    }

    /// The base of the frequencies.
    pub(super) fn theta(&self, config: &Config) -> Result<f32, ModelError> {
        match self.theta {
            Some(theta) if theta.is_finite() && theta > 0.0 => Ok(theta),
            given => {
                let given = given.map_or_else(|| "missing".to_owned(), |theta| theta.to_string());
                Err(config.field_error("rope_theta", &given, "it must be a positive number"))
            }
        }
    }

    /// How many numbers of a head are rotated.
    pub(super) fn dims(&self, head_dim: i32, config: &Config) -> Result<i32, ModelError> {
        let part = self.partial.unwrap_or(1.0);
        if !self.has_partial && part != 1.0 {
            let expected = format!("{} rotates whole heads", config.model_type());
            return Err(config.field_error("partial_rotary_factor", &part, expected));
        }
        let dims = (head_dim as f32 * part) as i32;
        if !(2..=head_dim).contains(&dims) || dims % 2 != 0 {
            let expected = "an even part of a head must be rotated";
            return Err(config.field_error("partial_rotary_factor", &part, expected));
        }
        Ok(dims)
    }
}

impl RopeLayers {
    /// Reads the settings of each type of layer.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for settings that contradict each other or are not known.
    pub(crate) fn of(config: &Config, defaults: RopeDefaults) -> Result<Self, ModelError> {
        let fields: Fields = config.args()?;
        let objects = [&fields.rope_scaling, &fields.rope_parameters].map(Option::as_ref);
        let is_nested = |value: &Value| value.as_object().is_some_and(|object| object.contains_key(FULL));
        let is_by_layer = objects.iter().flatten().any(|value| is_nested(value));
        let of = |layer_type, fields: &Fields| {
            let given = merged(layer_type, objects, config)?;
            RopeSettings::from_parts(given, fields, defaults, config)
        };
        let full = of(FULL, &fields)?;
        // Fields outside of the objects are those of layers that see all tokens.
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
            let expected = format!("{} pairs numbers in one way", config.model_type());
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

    /// The base, if the configuration or its family says one.
    pub(crate) fn given_theta(&self) -> Option<f32> {
        self.theta
    }

    /// Settings without scaling and with this base, which the same configuration has for other layers.
    pub(crate) fn unscaled(&self, theta: f32) -> Self {
        Self { theta: Some(theta), scaling: RopeScaling::default(), ..self.clone() }
    }

    /// Reads the settings of layers that see all tokens, for what they say of positions.
    pub(crate) fn of_full(config: &Config) -> Result<Self, ModelError> {
        // What is rotated does not matter here, and was looked at by the family.
        Ok(RopeLayers::of(config, RopeDefaults::either_pairs())?.full)
    }

    /// Positions that a model was trained for, of which `trained` are known, or that its scaling stretches them to: `factor`
    /// times those of the first training.
    pub(crate) fn stretched_positions(
        &self,
        trained: Option<usize>,
        config: &Config,
    ) -> Result<Option<usize>, ModelError> {
        let Some(trained) = trained else { return Ok(None) };
        let stretched = match self.scaling.kind(config)? {
            Kind::Yarn | Kind::LongRope => self.scaling.stretched_positions(),
            _ => None,
        };
        Ok(Some(trained.max(stretched.unwrap_or(0))))
    }

    /// The length at which a context must end because longer ones would rotate all of their tokens anew, if there is one.
    pub(crate) fn positions_max(&self, config: &Config) -> Result<Option<usize>, ModelError> {
        let is_dynamic = self.scaling.kind(config)? == Kind::Dynamic;
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

/// A number that may be given outside and inside of an object.
fn agreed(
    field: &str,
    outside: Option<f32>,
    inside: Option<f32>,
    config: &Config,
) -> Result<Option<f32>, ModelError> {
    match (outside, inside) {
        (Some(outside), Some(inside)) if outside != inside => {
            let expected =
                format!("rope_parameters or rope_scaling says {inside}, and both are the same setting");
            Err(config.field_error(field, &outside, expected))
        }
        _ => Ok(outside.or(inside)),
    }
}

/// Settings of a type of layer from both objects.
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
                    let expected = format!("{FULL} and {SLIDING} are the types of layers that are known");
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
            // Older configurations say `type`.
            let key = if key == "type" { "rope_type" } else { key };
            // Axes of images share pairs; a text has the same position along each.
            let value = if value == "mrope" { &Value::from("default") } else { value };
            match all.insert(key.to_owned(), value.clone()) {
                Some(before) if before != *value => {
                    let expected = format!("it is also said to be {before}");
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
        config.field_error(&path, &"not understood", error.into_inner().to_string())
    })
}
