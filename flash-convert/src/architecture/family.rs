/// What `general.architecture` may say.
pub(super) const KNOWN: &str = "llama, qwen2, qwen3, gemma3";

/// What models of an architecture have of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Architecture {
    /// What GGUF calls it; its settings begin with that.
    pub(super) gguf: &'static str,
    /// What config.json calls it.
    pub(super) model_type: &'static str,
    pub(super) class: &'static str,
    /// Whether the file has the rows of queries and keys in the order of llama.cpp's older rotation.
    pub(super) is_interleaved: bool,
    /// Whether queries, keys and values have biases; None: they do if the file has them, and the output then, too.
    pub(super) has_qkv_biases: Option<bool>,
    pub(super) has_qk_norms: bool,
    /// Gemma: norms before and after each block, whose weights the file has 1 greater than the model, and layers that see
    /// only recent tokens.
    pub(super) is_gemma: bool,
    /// Whether the size of a head may be another than that of the hidden state divided by their number.
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
