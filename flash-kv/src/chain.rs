//! Identity of a cache and hash chain over its pages of tokens.

use std::fmt;

use crate::{KvParts, PAGE_TOKENS, PageFormat, PageLayout};

/// Version of every on-disk format of this crate. Files of any other version are rejected.
pub const FORMAT_VERSION: u32 = 4;

/// A 256-bit cryptographic hash, displayed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Parses 64 lower-case hexadecimal digits, the [`Display`](fmt::Display) form; `None` for anything else.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let digest = blake3::Hash::from_hex(digits).ok().map(|hash| Self(*hash.as_bytes()))?;
        (digest.to_string() == digits).then_some(digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Geometry of a cache: its shape and the storage settings that its bits depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Number of layers that have keys and values.
    pub n_layers: u32,
    /// KV heads of each layer.
    pub kv_heads: u32,
    /// Elements of one head's key or value.
    pub head_dim: u32,
    /// Whether values are stored separately from keys.
    pub parts: KvParts,
    /// Storage format of sealed pages.
    pub format: PageFormat,
    /// Storage format of the window, which holds the tokens that are not sealed.
    pub window_format: PageFormat,
    /// Length of the window: the most recent tokens, which attention sees unquantized. (Not a layer's sliding window.)
    pub window_tokens: u32,
}

impl Geometry {
    /// Returns the layout of sealed pages.
    ///
    /// # Panics
    /// Panics like [`PageLayout::new`].
    pub fn layout(&self) -> PageLayout {
        self.layout_in(self.format)
    }

    /// Returns the layout of pages in the window's format.
    ///
    /// # Panics
    /// Panics like [`PageLayout::new`].
    pub fn window_layout(&self) -> PageLayout {
        self.layout_in(self.window_format)
    }

    fn layout_in(&self, format: PageFormat) -> PageLayout {
        PageLayout::of(self.kv_heads as usize, self.head_dim as usize, self.parts, format)
    }

    /// Returns the number of pages that overlap a window ending at a page boundary.
    pub fn window_pages(&self) -> usize {
        (self.window_tokens as usize).div_ceil(PAGE_TOKENS)
    }
}

/// Identity of a cache. In caches of equal identity, equal tokens leave equal bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Hash of the model, supplied by the caller: it must cover the configuration, the weights (see
    /// [`weights_digest`](crate::weights_digest)) and the version of the arithmetic.
    pub model: Digest,
    /// Geometry and storage formats.
    pub geometry: Geometry,
}

impl Identity {
    /// Returns the hash of all fields and of [`FORMAT_VERSION`].
    pub fn digest(&self) -> Digest {
        let Geometry { n_layers, kv_heads, head_dim, parts, format, window_format, window_tokens } =
            self.geometry;
        let mut hasher = blake3::Hasher::new_derive_key("flash-kv identity of a cache");
        hasher.update(&self.model.0);
        let numbers = [
            FORMAT_VERSION,
            PAGE_TOKENS as u32,
            n_layers,
            kv_heads,
            head_dim,
            format.tag(),
            window_format.tag(),
            window_tokens,
        ];
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        // Hashed only for caches that deviate from the default, so that all earlier caches keep their names.
        if parts != KvParts::KeysAndValues {
            hasher.update(&parts.tag().to_le_bytes());
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

/// Returns the length of the common prefix of two token sequences.
pub fn common_tokens(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Hash of a prefix: whole pages of tokens from the start of a context, in the cache of an [`Identity`].
///
/// One cryptographic hash is chained per page. Prefixes with equal hashes are treated as equal, so a collision would let
/// the model continue from tokens that were never in its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(pub Digest);

impl Chain {
    /// Returns the hash of the empty prefix.
    pub fn root(identity: &Identity) -> Self {
        Self(identity.digest())
    }

    /// Returns the hash of this prefix extended by one page.
    #[must_use]
    pub fn next(&self, token_ids: &[u32; PAGE_TOKENS]) -> Self {
        // Digest and page have fixed lengths, so the concatenation is unambiguous.
        let mut hasher = blake3::Hasher::new_derive_key("flash-kv chain of pages");
        hasher.update(&self.0.0);
        for id in token_ids {
            hasher.update(&id.to_le_bytes());
        }
        Self(Digest(*hasher.finalize().as_bytes()))
    }

    /// Iterates over the hashes of all whole-page prefixes of `token_ids`, shortest first.
    pub fn pages(identity: &Identity, token_ids: &[u32]) -> impl Iterator<Item = Self> {
        let (pages, _) = token_ids.as_chunks();
        pages.iter().scan(Self::root(identity), |chain, page| {
            *chain = chain.next(page);
            Some(*chain)
        })
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        model: Digest([7; 32]),
        geometry: Geometry {
            n_layers: 2,
            kv_heads: 3,
            head_dim: 64,
            parts: KvParts::KeysAndValues,
            format: PageFormat::Int8,
            window_format: PageFormat::F16,
            window_tokens: 128,
        },
    };

    #[test]
    fn every_field_of_an_identity_changes_its_digest() {
        let vary = |change: fn(&mut Identity)| {
            let mut identity = IDENTITY;
            change(&mut identity);
            identity.digest()
        };
        let digests = [
            IDENTITY.digest(),
            vary(|identity| identity.model.0[31] ^= 1),
            vary(|identity| identity.geometry.n_layers += 1),
            vary(|identity| identity.geometry.kv_heads += 1),
            vary(|identity| identity.geometry.head_dim += 1),
            vary(|identity| identity.geometry.parts = KvParts::KeysOnly),
            vary(|identity| identity.geometry.format = PageFormat::Int4),
            vary(|identity| identity.geometry.window_format = PageFormat::F32),
            vary(|identity| identity.geometry.window_tokens += 1),
        ];
        for (i, digest) in digests.iter().enumerate() {
            assert!(!digests[..i].contains(digest), "number {i}");
        }
    }

    #[test]
    fn chain_depends_on_all_earlier_tokens_and_their_order() {
        let (a, b) = ([1; PAGE_TOKENS], [2; PAGE_TOKENS]);
        let root = Chain::root(&IDENTITY);
        assert_eq!(root.next(&a).next(&b), root.next(&a).next(&b));
        assert_ne!(root.next(&a).next(&b), root.next(&b).next(&a));
        assert_ne!(root.next(&b), root.next(&a).next(&b), "another position");
        let mut last = a;
        last[PAGE_TOKENS - 1] += 1;
        assert_ne!(root.next(&last), root.next(&a));
    }

    #[test]
    fn partial_pages_have_no_chain() {
        let token_ids = [5; 2 * PAGE_TOKENS + 127];
        let chains: Vec<_> = Chain::pages(&IDENTITY, &token_ids).collect();
        let first = Chain::root(&IDENTITY).next(&[5; PAGE_TOKENS]);
        assert_eq!(chains, [first, first.next(&[5; PAGE_TOKENS])]);
    }

    #[test]
    fn digests_parse_from_their_display_form() {
        let digest = IDENTITY.digest();
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_hex(&digest.to_string().to_uppercase()), None, "a digest has one spelling");
        assert_eq!(Digest::from_hex("12"), None);
        assert_eq!(format!("{digest:.16}").len(), 16);
    }
}
