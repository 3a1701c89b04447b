//! The table of supported GGUF architectures.

/// Supported values of `general.architecture`.
pub(super) const KNOWN: &str = "llama, qwen2, qwen3, gemma3";

/// Properties of an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Architecture {
    /// GGUF's name, which is also the prefix of its settings.
    pub(super) gguf: &'static str,
    /// `model_type` of config.json.
    pub(super) model_type: &'static str,
    /// `architectures` of config.json.
    pub(super) class: &'static str,
    /// Whether GGUF stores the rows of queries and keys in the interleaved order of llama.cpp's RoPE.
    pub(super) is_interleaved: bool,
    /// Whether queries, keys and values have biases; None: if the file has any, those three and the output have them.
    pub(super) has_qkv_biases: Option<bool>,
    pub(super) has_qk_norms: bool,
    /// Gemma: norms before and after each block, stored by GGUF with 1 added to their weights, and sliding-window
    /// layers.
    pub(super) is_gemma: bool,
    /// Whether the head size can differ from the hidden size divided by the number of heads.
    pub(super) has_head_dim: bool,
}

const LLAMA: Architecture = Architecture {
    gguf: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    is_interleaved: true,
    has_qkv_biases: None,
    has_qk_norms: false,
    is_gemma: false,
    has_head_dim: true,
};

pub(super) const ARCHITECTURES: [Architecture; 4] = [
    LLAMA,
    Architecture {
        gguf: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        is_interleaved: false,
        has_qkv_biases: Some(true),
        has_head_dim: false,
        ..LLAMA
    },
    Architecture {
        gguf: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        is_interleaved: false,
        has_qkv_biases: Some(false),
        has_qk_norms: true,
        ..LLAMA
    },
    Architecture {
        gguf: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        is_interleaved: false,
        has_qkv_biases: Some(false),
        has_qk_norms: true,
        is_gemma: true,
        ..LLAMA
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_known_architectures_are_named() {
        assert_eq!(ARCHITECTURES.map(|known| known.gguf).join(", "), KNOWN);
    }
}
