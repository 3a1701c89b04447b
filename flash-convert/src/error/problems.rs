use std::path::PathBuf;

/// Problem with a part of a split GGUF model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitProblem {
    /// The part does not exist.
    #[error("no such file; it is one of the {count} parts of the model that {given} belongs to")]
    Missing {
        /// The part that was opened.
        given: PathBuf,
        /// The number of parts.
        count: usize,
    },
    /// The file name does not follow the naming of parts, so the others cannot be found.
    #[error("is a part of a split model, so its name must end in {end:?}")]
    Name {
        /// The expected suffix.
        end: String,
    },
    /// A part number or count contradicts the file name or the other parts.
    #[error(
        "{key} is {}, not {wanted}: the files are not parts of one model",
        found.map_or_else(|| "absent".to_owned(), |found| found.to_string())
    )]
    Number {
        /// The metadata key.
        key: &'static str,
        /// The value implied by the file name or the other parts.
        wanted: usize,
        /// The value found.
        found: Option<usize>,
    },
}

/// Problem with a table of a GGUF tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerProblem {
    /// The tokenizer or its pre-tokenizer is not supported.
    #[error("{found:?} is not supported (known: {known})")]
    Unknown {
        /// The value found.
        found: String,
        /// The supported values.
        known: &'static str,
    },
    /// The table's length differs from the number of tokens.
    #[error("holds {found} entries for {wanted} tokens")]
    Length {
        /// Number of tokens.
        wanted: usize,
        /// Number of entries in the table.
        found: usize,
    },
    /// The vocabulary has more tokens than the embedding has rows.
    #[error("{found} tokens, but only {wanted} embeddings")]
    MoreThanEmbeddings {
        /// Rows of the embedding.
        wanted: u64,
        /// Number of tokens.
        found: usize,
    },
    /// Two tokens have the same text.
    #[error("tokens {first} and {second} are both {text:?}")]
    Duplicate {
        /// The text.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A token id is outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {n_tokens} tokens")]
    NoSuchToken {
        /// The id.
        id: u64,
        /// Number of tokens.
        n_tokens: usize,
    },
    /// A token has a type that GGUF does not define.
    #[error("token {id} has the undefined type {found}")]
    TokenType {
        /// The token.
        id: usize,
        /// Its type.
        found: i32,
    },
    /// A merge is not a pair of tokens whose concatenation is a token.
    #[error("merge {idx}, {text:?}, is not a pair of tokens that form a token")]
    Merge {
        /// Index in the table.
        idx: usize,
        /// The merge.
        text: String,
    },
}
