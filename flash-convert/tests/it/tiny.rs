//! Tiny random models of the `llama` architecture as GGUF.

use std::fs;
use std::path::PathBuf;

use flash_convert::gguf::{BlockFormat, GgmlType};
use half::f16;

use crate::builder::{Builder, Typed};

/// Layers of every tiny model.
pub(crate) const N_LAYERS: u32 = 2;
/// Heads and key-value heads of every tiny model.
pub(crate) const N_HEADS: u64 = 4;
pub(crate) const N_KV_HEADS: u64 = 2;
/// Default number of rows of the embedding, three more than there are tokens.
const N_VOCAB: u64 = 8;

/// A seeded random number generator (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Returns a number between -1 and 1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

pub(crate) fn kind(name: &str) -> GgmlType {
    (0..64).filter_map(GgmlType::from_id).find(|kind| kind.name() == name).unwrap()
}

/// Returns the offsets of `f16` numbers in a block.
fn halves(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => &[0, 2],
        BlockFormat::Q6K => &[208],
        BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16 => &[],
    }
}

/// Returns blocks of `n_values` random values with magnitudes typical of weights.
pub(crate) fn blocks(random: &mut Random, format: BlockFormat, n_values: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..n_values / format.block_len() as u64 {
        let start = out.len();
        match format {
            BlockFormat::F32 => out.extend(random.unit().to_le_bytes()),
            BlockFormat::F16 => out.extend(f16::from_f32(random.unit()).to_le_bytes()),
            BlockFormat::BF16 => out.extend(half::bf16::from_f32(random.unit()).to_le_bytes()),
            _ => {
                out.extend((0..format.block_bytes()).map(|_| random.next() as u8));
                for at in halves(format) {
                    let scale = f16::from_f32(0.01 * random.unit()).to_le_bytes();
                    out[start + at..start + at + 2].copy_from_slice(&scale);
                }
            }
        }
    }
    out
}

/// Dimensions and format of a tiny model.
#[derive(Clone, Copy)]
pub(crate) struct Tiny {
    pub(crate) hidden: u64,
    pub(crate) head_dim: u64,
    pub(crate) format: BlockFormat,
    pub(crate) has_head: bool,
    pub(crate) has_biases: bool,
    pub(crate) n_vocab: u64,
}

impl Tiny {
    /// Returns a model whose matrices are stored as `format`.
    pub(crate) fn new(format: BlockFormat) -> Self {
        let hidden = if format.block_len() == 256 { 256 } else { 64 };
        Self {
            hidden,
            head_dim: hidden / N_HEADS,
            format,
            has_head: false,
            has_biases: false,
            n_vocab: N_VOCAB,
        }
    }

    pub(crate) fn inner(self) -> u64 {
        2 * self.hidden
    }

    pub(crate) fn build(self) -> Builder {
        let mut gguf = Builder::new();
        let q = N_HEADS * self.head_dim;
        let kv = N_KV_HEADS * self.head_dim;
        gguf.set("general.architecture", Typed::string("llama"))
            .set("llama.block_count", Typed::u32(N_LAYERS))
            .set("llama.context_length", Typed::u32(512))
            .set("llama.embedding_length", Typed::u32(self.hidden as u32))
            .set("llama.feed_forward_length", Typed::u32(self.inner() as u32))
            .set("llama.attention.head_count", Typed::u32(N_HEADS as u32))
            .set("llama.attention.head_count_kv", Typed::u32(N_KV_HEADS as u32))
            .set("llama.attention.layer_norm_rms_epsilon", Typed::f32(1e-5))
            .set("llama.rope.freq_base", Typed::f32(500_000.0))
            .set("llama.rope.dimension_count", Typed::u32(self.head_dim as u32))
            .set("tokenizer.ggml.model", Typed::string("gpt2"))
            .set("tokenizer.ggml.pre", Typed::string("gpt-2"))
            .set("tokenizer.ggml.tokens", Typed::strings(["<|b|>", "<|e|>", "a", "b", "ab"]))
            .set("tokenizer.ggml.token_type", Typed::i32s(&[3, 3, 1, 1, 1]))
            .set("tokenizer.ggml.merges", Typed::strings(["a b"]))
            .set("tokenizer.ggml.bos_token_id", Typed::u32(0))
            .set("tokenizer.ggml.eos_token_id", Typed::u32(1));
        let mut random = Random::new(self.hidden + self.format.block_bytes() as u64);
        let mut matrix = |gguf: &mut Builder, name: &str, n_cols: u64, n_rows: u64| {
            let data = blocks(&mut random, self.format, n_cols * n_rows);
            gguf.tensor(name, &[n_cols, n_rows], self.kind().id(), data);
        };
        let mut random = Random::new(77);
        let mut vector = |gguf: &mut Builder, name: &str, len: u64| {
            let data = blocks(&mut random, BlockFormat::F32, len);
            gguf.tensor(name, &[len], 0, data);
        };
        matrix(&mut gguf, "token_embd.weight", self.hidden, self.n_vocab);
        for layer in 0..N_LAYERS {
            vector(&mut gguf, &format!("blk.{layer}.attn_norm.weight"), self.hidden);
            vector(&mut gguf, &format!("blk.{layer}.ffn_norm.weight"), self.hidden);
            for (part, n_cols, n_rows) in [
                ("attn_q", self.hidden, q),
                ("attn_k", self.hidden, kv),
                ("attn_v", self.hidden, kv),
                ("attn_output", q, self.hidden),
                ("ffn_gate", self.hidden, self.inner()),
                ("ffn_up", self.hidden, self.inner()),
                ("ffn_down", self.inner(), self.hidden),
            ] {
                matrix(&mut gguf, &format!("blk.{layer}.{part}.weight"), n_cols, n_rows);
                if self.has_biases {
                    vector(&mut gguf, &format!("blk.{layer}.{part}.bias"), n_rows);
                }
            }
        }
        vector(&mut gguf, "output_norm.weight", self.hidden);
        if self.has_head {
            matrix(&mut gguf, "output.weight", self.hidden, self.n_vocab);
        }
        gguf
    }

    pub(crate) fn kind(self) -> GgmlType {
        let mut kinds = (0..64).filter_map(GgmlType::from_id);
        kinds.find(|kind| BlockFormat::of(*kind) == Some(self.format)).unwrap()
    }
}

/// A temporary folder with `model.gguf`.
pub(crate) struct Folder {
    pub(crate) dir: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new(gguf: &Builder) -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(folder.gguf(), gguf.build()).unwrap();
        folder
    }

    pub(crate) fn gguf(&self) -> PathBuf {
        self.dir.path().join("model.gguf")
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Returns the names of all entries of the folder except the GGUF file.
    pub(crate) fn others(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "model.gguf").collect()
    }
}
