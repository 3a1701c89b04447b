//! Loading of `tokenizer.json` without holding several copies in memory.
//!
//! The tokenizers crate reads the file into a string and buffers the whole model twice before it builds its tables; for
//! a vocabulary of 128,000 the peak is more than twice the final size. BPE models, which nearly all language models
//! have, are therefore streamed from the file directly into the two tables of their builder. Other kinds are loaded by
//! the crate itself.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use flash_io::deserialize_naming_fields;
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::error::TextError;
use super::files::{no_pointer, wrong_field};
use super::{added, check};

/// Read buffer for parsing, which reads the file once, sequentially.
const BUFFER_BYTES: usize = 64 << 10;

/// The only existing format version of `tokenizer.json`.
const FORMAT_VERSION: &str = "1.0";

/// Tokenizer files of other programs, which transformers can convert to a `tokenizer.json`.
const OTHERS: [&str; 6] =
    ["tokenizer.model", "tiktoken.model", "tekken.json", "spiece.model", "vocab.json", "vocab.txt"];

/// Loads `tokenizer.json`. Truncation and padding are for training and are ignored, as a plain `encode` of transformers
/// does.
pub(super) fn load(path: &Path) -> Result<tokenizers::Tokenizer, TextError> {
    let mut file = open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => no_tokenizer(path),
        _ => TextError::Read { path: path.to_owned(), error },
    })?;
    let start = file.fill_buf().map_err(|error| TextError::Read { path: path.to_owned(), error })?;
    no_pointer(path, start)?;
    let parts: Parts = serde_json::from_reader(file).map_err(|error| parse_error(path, error))?;
    if let Some(version) = parts.version.filter(|version| version != FORMAT_VERSION) {
        return Err(wrong_field(path, "version", "\"1.0\"", &Value::String(version)));
    }
    if let Some(normalizer) = &parts.normalizer {
        check::precompiled(path, normalizer)?;
    }
    if let Some(post_processor) = &parts.post_processor {
        check::template(path, post_processor)?;
    }
    let refused = |field| move |error| TextError::Part { path: path.to_owned(), field, error };
    if !parts.model.is_bpe() {
        let mut tokenizer = tokenizers::Tokenizer::from_file(path).map_err(refused("model"))?;
        tokenizer.with_truncation(None).map_err(refused("truncation"))?;
        tokenizer.with_padding(None);
        added::add_with_ids(
            &mut tokenizer,
            path,
            parts.added_tokens.into_iter().map(Added::split).collect(),
        )?;
        return Ok(tokenizer);
    }
    let mut tokenizer = tokenizers::Tokenizer::new(parts.model.into_bpe(path)?);
    tokenizer
        .with_normalizer(part::<tokenizers::NormalizerWrapper>(path, "normalizer", parts.normalizer)?)
        .map_err(refused("normalizer"))?
        .with_pre_tokenizer(part::<tokenizers::PreTokenizerWrapper>(
            path,
            "pre_tokenizer",
            parts.pre_tokenizer,
        )?)
        .with_post_processor(part::<tokenizers::PostProcessorWrapper>(
            path,
            "post_processor",
            parts.post_processor,
        )?)
        .with_decoder(part::<tokenizers::DecoderWrapper>(path, "decoder", parts.decoder)?);
    added::add_with_ids(&mut tokenizer, path, parts.added_tokens.into_iter().map(Added::split).collect())?;
    Ok(tokenizer)
}

/// Returns the error for a directory without `tokenizer.json`, with the tokenizer file that it has instead.
fn no_tokenizer(path: &Path) -> TextError {
    let instead = OTHERS.iter().find(|name| path.with_file_name(name).exists());
    TextError::NoTokenizer { path: path.to_owned(), instead: instead.copied() }
}

fn open(path: &Path) -> io::Result<BufReader<File>> {
    Ok(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?))
}

/// Returns the error for a malformed file. Parses it a second time to find the field: tracking fields in the first pass
/// would allocate a string per token.
fn parse_error(path: &Path, error: serde_json::Error) -> TextError {
    let again = || {
        let mut deserializer = serde_json::Deserializer::from_reader(open(path).ok()?);
        deserialize_naming_fields::<Parts, _>(&mut deserializer).err()
    };
    let error = if error.is_data() { again().unwrap_or(error) } else { error };
    let path = path.to_owned();
    if error.is_io() {
        TextError::Read { path, error: error.into() }
    } else {
        TextError::Json { path, error }
    }
}

/// Builds one of the small parts, if present.
pub(super) fn part<T: DeserializeOwned>(
    path: &Path,
    field: &'static str,
    value: Option<Value>,
) -> Result<Option<T>, TextError> {
    let Some(value) = value else { return Ok(None) };
    deserialize_naming_fields(value).map(Some).map_err(|error: serde_json::Error| TextError::Part {
        path: path.to_owned(),
        field,
        error: error.into(),
    })
}

/// The top-level fields of `tokenizer.json`. All but the model are small.
#[derive(Deserialize)]
struct Parts {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: ModelParts,
}

/// An added token with the id that the file assigns to it.
#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

impl Added {
    fn split(self) -> (u32, AddedToken) {
        (self.id, self.token)
    }
}

/// A model of any kind; only the kind is kept unless it is BPE.
#[derive(Deserialize)]
struct ModelParts {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "vocab")]
    vocab: Option<Vocab>,
    #[serde(default, deserialize_with = "merges")]
    merges: Option<Merges>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
}

impl ModelParts {
    /// Returns whether the model is BPE. Older files without `type` are recognized by their merges.
    fn is_bpe(&self) -> bool {
        self.kind.as_deref().map_or(self.merges.is_some(), |kind| kind == "BPE")
    }

    fn into_bpe(self, path: &Path) -> Result<BPE, TextError> {
        let absent = |field, expected| wrong_field(path, field, expected, &Value::Null);
        let vocab = self.vocab.ok_or_else(|| absent("model.vocab", "an object of token ids"))?;
        let merges = self.merges.ok_or_else(|| absent("model.merges", "a list of pairs of tokens"))?;
        let prefix_bytes = self.continuing_subword_prefix.as_ref().map_or(0, String::len);
        check::merges(path, &vocab, &merges, prefix_bytes)?;
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .fuse_unk(self.fuse_unk.unwrap_or(false))
            .byte_fallback(self.byte_fallback.unwrap_or(false))
            .ignore_merges(self.ignore_merges.unwrap_or(false));
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(token) = self.unk_token {
            builder = builder.unk_token(token);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map_err(|error| TextError::Part { path: path.to_owned(), field: "model", error })
    }
}

/// Deserializes a vocabulary from tokens to ids, and skips one of another form.
fn vocab<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vocab>, D::Error> {
    struct VocabVisitor;

    impl<'de> Visitor<'de> for VocabVisitor {
        type Value = Option<Vocab>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of token ids, or a list of tokens with scores")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut vocab = Vocab::new();
            while let Some((token, id)) = map.next_entry()? {
                vocab.insert(token, id);
            }
            Ok(Some(vocab))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(None)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }

    deserializer.deserialize_any(VocabVisitor)
}

/// Deserializes merges: pairs of tokens or, in older files, strings with a space between the two.
fn merges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Merges>, D::Error> {
    struct MergesVisitor;

    impl<'de> Visitor<'de> for MergesVisitor {
        type Value = Option<Merges>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of merges")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut merges = Merges::new();
            while let Some(merge) = seq.next_element_seed(MergeSeed)? {
                merges.extend(merge);
            }
            Ok(Some(merges))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }

    deserializer.deserialize_any(MergesVisitor)
}

/// Deserializes a merge; `None` for the version line at the start of older files.
struct MergeSeed;

impl<'de> DeserializeSeed<'de> for MergeSeed {
    type Value = Option<(String, String)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MergeSeed {
    type Value = Option<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pair of tokens, or two tokens with one space between them")
    }

    fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Self::Value, E> {
        if line.starts_with("#version") {
            return Ok(None);
        }
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok(Some((left.to_owned(), right.to_owned()))),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(line), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let left = seq.next_element()?;
        let right = seq.next_element()?;
        let is_pair = seq.next_element::<IgnoredAny>()?.is_none();
        match (left, right) {
            (Some(left), Some(right)) if is_pair => Ok(Some((left, right))),
            _ => Err(serde::de::Error::custom("a merge must have two tokens")),
        }
    }
}
