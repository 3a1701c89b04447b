//! Sizes that the configurations of all decoders share.

use serde::Deserialize;

use crate::ModelError;
use crate::checkpoint::config::Config;
use crate::compute::{Activation, NormArgs, Rope};
use crate::nn::attention::AttentionArgs;
use crate::nn::mlp::MlpArgs;
use crate::nn::rope::{RopeDefaults, RopeSettings};

/// Upper bound on the number of layers: building a layer takes memory before its tensors are looked up.
const N_LAYERS_MAX: usize = 1 << 14;

/// Names of the activation `x · sigmoid(x)` in configurations.
pub(crate) const SILU: [&str; 2] = ["silu", "swish"];

/// Sizes of a decoder.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sizes {
    pub hidden_size: i32,
    pub num_hidden_layers: usize,
    pub intermediate_size: i32,
    pub num_attention_heads: i32,
    pub num_key_value_heads: Option<i32>,
    pub head_dim: Option<i32>,
    /// `Some` after [`check`](Self::check).
    pub rms_norm_eps: Option<f32>,
    pub vocab_size: i32,
    pub max_position_embeddings: Option<usize>,
}

impl Sizes {
    /// Reads and checks the sizes of a configuration.
    pub(crate) fn from_config(config: &Config) -> Result<Self, ModelError> {
        Self::from_config_with(config, |_| {})
    }

    /// Reads the sizes of a configuration, applies the overrides and defaults of a family, and checks the result.
    pub(crate) fn from_config_with(
        config: &Config,
        overrides: impl FnOnce(&mut Self),
    ) -> Result<Self, ModelError> {
        let mut sizes: Self = config.args()?;
        overrides(&mut sizes);
        sizes.check(config)?;
        Ok(sizes)
    }

    /// Sets the number of KV heads to `n_heads` if the field is absent; `null` means one for each query head.
    pub(crate) fn default_kv_heads(&mut self, n_heads: i32, config: &Config) {
        if !config.is_null("num_key_value_heads") {
            self.num_key_value_heads.get_or_insert(n_heads);
        }
    }

    pub(crate) fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads)
    }

    pub(crate) fn kv_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Checks that the sizes are positive and consistent.
    pub(crate) fn check(&self, config: &Config) -> Result<(), ModelError> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("vocab_size", self.vocab_size),
        ];
        for (field, size) in sizes {
            config.length(field, size)?;
        }
        if !(1..=N_LAYERS_MAX).contains(&self.num_hidden_layers) {
            let expected = format!("it must be from 1 to {N_LAYERS_MAX}");
            return Err(config.field_error("num_hidden_layers", &self.num_hidden_layers, expected));
        }
        if self.head_dim() <= 0 || self.head_dim() % 2 != 0 {
            return Err(config.field_error("head_dim", &self.head_dim(), "it must be positive and even"));
        }
        if !self.rms_norm_eps.is_some_and(|eps| eps.is_finite() && eps >= 0.0) {
            let given = self.rms_norm_eps.map_or_else(|| "missing".to_owned(), |eps| eps.to_string());
            return Err(config.field_error("rms_norm_eps", &given, "it must be a non-negative number"));
        }
        // Some families have an output gate beside each query, which doubles the rows.
        let rows = 2 * i64::from(self.num_attention_heads) * i64::from(self.head_dim());
        if rows > i64::from(i32::MAX) {
            let expected = "the query projection would have 2^31 rows or more";
            return Err(config.field_error("num_attention_heads", &self.num_attention_heads, expected));
        }
        if self.num_attention_heads % self.kv_heads() != 0 {
            return Err(config.field_error(
                "num_key_value_heads",
                &self.kv_heads(),
                "it must divide num_attention_heads",
            ));
        }
        Ok(())
    }

    /// Returns the epsilon of the RMS norms.
    ///
    /// # Panics
    /// If the sizes were not checked.
    pub(crate) fn eps(&self) -> f32 {
        self.rms_norm_eps.expect("sizes were checked")
    }

    pub(crate) fn norm_args(&self) -> NormArgs {
        NormArgs { eps: self.eps(), weight_offset: 0.0 }
    }

    /// Returns the rotary embedding of a model whose layers all use the same one.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for settings that contradict each other or are not known.
    pub(crate) fn rope(&self, config: &Config, defaults: RopeDefaults) -> Result<Rope, ModelError> {
        RopeSettings::from_config(config, defaults)?.rope(self.head_dim(), config)
    }

    /// Returns full attention without biases, sinks, output gate and head norms.
    pub(crate) fn attention_args(&self, rope: Option<Rope>) -> AttentionArgs {
        AttentionArgs {
            hidden_size: self.hidden_size,
            n_heads: self.num_attention_heads,
            n_kv_heads: self.kv_heads(),
            head_dim: self.head_dim(),
            scale: (self.head_dim() as f32).powf(-0.5),
            rope,
            window: None,
            qkv_bias: false,
            output_bias: false,
            sinks: false,
            output_gate: false,
            head_norm: None,
        }
    }

    /// Returns a SiLU-gated MLP without biases.
    pub(crate) fn mlp_args(&self) -> MlpArgs {
        MlpArgs {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            bias: false,
            activation: Some(Activation::Silu),
        }
    }
}
