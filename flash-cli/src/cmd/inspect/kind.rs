//! Classifies tensors by their names.

use serde::Serialize;

/// Name parts of tensors in recurrent layers.
const RECURRENT: [&str; 7] = [
    "linear_attn",
    "mixer.in_proj",
    "mixer.out_proj",
    "mixer.conv1d",
    "mixer.A_log",
    "mixer.D",
    "mixer.dt_bias",
];
/// Name parts of attention tensors in models whose layers are all called mixers.
const MIXER_ATTENTION: [&str; 4] = ["mixer.q_proj", "mixer.k_proj", "mixer.v_proj", "mixer.o_proj"];

/// Bytes of tensors by kind.
#[derive(Debug, Default, Serialize)]
pub(super) struct BytesByKind {
    embedding: u64,
    attention: u64,
    recurrent: u64,
    mlp: u64,
    norms: u64,
    head: u64,
    other: u64,
}

impl BytesByKind {
    pub(super) fn add(&mut self, tensor: &str, bytes: u64) {
        let has = |words: &[&str]| words.iter().any(|word| tensor.contains(word));
        // Norms come first, because names such as `post_attention_layernorm` also match other kinds.
        let sum = if has(&["norm"]) {
            &mut self.norms
        } else if has(&["embed"]) {
            &mut self.embedding
        } else if has(&RECURRENT) {
            &mut self.recurrent
        } else if has(&["attn", "attention"]) || has(&MIXER_ATTENTION) {
            &mut self.attention
        } else if has(&["mlp", "feed_forward", ".mixer."]) {
            &mut self.mlp
        } else if has(&["lm_head"]) {
            &mut self.head
        } else {
            &mut self.other
        };
        *sum += bytes;
    }

    /// Returns the kinds with their names.
    pub(super) fn rows(&self) -> [(&'static str, u64); 7] {
        let Self { embedding, attention, recurrent, mlp, norms, head, other } = *self;
        [
            ("embedding", embedding),
            ("attention", attention),
            ("recurrent", recurrent),
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
    fn every_tensor_has_its_kind() {
        let table = [
            ("model.embed_tokens.weight", "embedding"),
            ("model.layers.0.self_attn.q_proj.scales", "attention"),
            ("model.layers.0.post_attention_layernorm.weight", "norms"),
            ("model.layers.0.mlp.down_proj.weight", "mlp"),
            ("backbone.layers.0.mixer.conv1d.weight", "recurrent"),
            ("backbone.layers.1.mixer.o_proj.weight", "attention"),
            ("backbone.layers.2.mixer.up_proj.weight", "mlp"),
            ("backbone.layers.2.mixer.norm.weight", "norms"),
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
