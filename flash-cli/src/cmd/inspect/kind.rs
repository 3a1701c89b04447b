//! What a tensor is for, by its name.

use serde::Serialize;

/// Bytes of tensors by what they are for.
#[derive(Debug, Default, Serialize)]
pub(super) struct BytesByKind {
    embedding: u64,
    attention: u64,
    mlp: u64,
    norms: u64,
    head: u64,
    other: u64,
}

impl BytesByKind {
    pub(super) fn add(&mut self, tensor: &str, bytes: u64) {
        let has = |words: &[&str]| words.iter().any(|word| tensor.contains(word));
        // A norm is one wherever it stands, even behind the attention.
        let sum = if has(&["norm"]) {
            &mut self.norms
        } else if has(&["embed"]) {
            &mut self.embedding
        } else if has(&["attn", "attention"]) {
            &mut self.attention
        } else if has(&["mlp", "feed_forward"]) {
            &mut self.mlp
        } else if has(&["lm_head"]) {
            &mut self.head
        } else {
            &mut self.other
        };
        *sum += bytes;
    }

    /// The kinds with their names.
    pub(super) fn rows(&self) -> [(&'static str, u64); 6] {
        let Self { embedding, attention, mlp, norms, head, other } = *self;
        [
            ("embedding", embedding),
            ("attention", attention),
            ("mlp", mlp),
            ("norms", norms),
            ("head", head),
            ("other", other),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_of_a_llama_has_its_kind() {
        let table = [
            ("model.embed_tokens.weight", "embedding"),
            ("model.layers.0.self_attn.q_proj.scales", "attention"),
            ("model.layers.0.post_attention_layernorm.weight", "norms"),
            ("model.layers.0.mlp.down_proj.weight", "mlp"),
            ("model.norm.weight", "norms"),
            ("lm_head.weight", "head"),
            ("model.layers.0.rotary.inv_freq", "other"),
        ];
        for (tensor, expected) in table {
            let mut bytes = BytesByKind::default();
            bytes.add(tensor, 1);
            let found: Vec<_> = bytes.rows().into_iter().filter(|(_, bytes)| *bytes > 0).collect();
            assert_eq!(found, [(expected, 1)], "{tensor}");
        }
    }
}
