//! Which tokens, of which cache, a page belongs to.

use std::fmt;

use crate::{Halves, PAGE_TOKENS, PageFormat, PageLayout};

/// Version of everything this crate writes. Files of another one are refused.
pub const FORMAT_VERSION: u32 = 4;

/// 32 bytes of a cryptographic hash, shown in hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// What is shown by a digest, read back. None unless it is 64 digits, in lower case.
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

/// The shape of a cache, and what its bits depend on besides the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Layers that leave keys and values behind.
    pub n_layers: u32,
    /// Heads of keys and values in each of them.
    pub kv_heads: u32,
    /// Numbers in one head's key or value.
    pub head_dim: u32,
    /// Whether values are kept beside keys.
    pub halves: Halves,
    /// How sealed pages are stored.
    pub format: PageFormat,
    /// How the window holds tokens that are not sealed.
    pub window_format: PageFormat,
    /// The most recent tokens that are seen as the window holds them.
    pub window_tokens: u32,
}

impl Geometry {
    /// The layout of sealed pages.
    ///
    /// # Panics
    /// As [`PageLayout::new`].
    pub fn layout(&self) -> PageLayout {
        self.layout_in(self.format)
    }

    /// The layout of pages as the window holds them.
    ///
    /// # Panics
    /// As [`PageLayout::new`].
    pub fn window_layout(&self) -> PageLayout {
        self.layout_in(self.window_format)
    }

    fn layout_in(&self, format: PageFormat) -> PageLayout {
        PageLayout::of(self.kv_heads as usize, self.head_dim as usize, self.halves, format)
    }

    /// Pages that a window reaches into, when it ends at the end of a page.
    pub fn window_pages(&self) -> usize {
        (self.window_tokens as usize).div_ceil(PAGE_TOKENS)
    }
}

/// What makes two caches the same: equal tokens leave the same bits in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// A hash of the model, given by whoever knows what its output depends on: its configuration, its weights (see
    /// [`weights_digest`](crate::weights_digest)) and the version of the arithmetic.
    pub model: Digest,
    /// The cache.
    pub geometry: Geometry,
}

impl Identity {
    /// A hash of all of it and of [`FORMAT_VERSION`].
    pub fn digest(&self) -> Digest {
        let Geometry { n_layers, kv_heads, head_dim, halves, format, window_format, window_tokens } =
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
        // Last, and not where both are kept: so those have the names that they always had.
        if halves != Halves::KeysAndValues {
            hasher.update(&halves.tag().to_le_bytes());
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

/// How many tokens both begin with.
pub fn common_tokens(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Names a run of whole pages of tokens, from the first token of a context, in the cache of an [`Identity`].
///
/// The hash is a cryptographic one on purpose: two runs with the same name would be taken for each other, and the model
/// would go on from tokens that were never there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(pub Digest);

impl Chain {
    /// The run of no pages.
    pub fn root(identity: &Identity) -> Self {
        Self(identity.digest())
    }

    /// This run and one page more.
    #[must_use]
    pub fn next(&self, token_ids: &[u32; PAGE_TOKENS]) -> Self {
        // Digests and pages have fixed lengths, so no two inputs run into the same bytes.
        let mut hasher = blake3::Hasher::new_derive_key("flash-kv chain of pages");
        hasher.update(&self.0.0);
        for id in token_ids {
            hasher.update(&id.to_le_bytes());
        }
        Self(Digest(*hasher.finalize().as_bytes()))
    }

    /// The names of all runs of whole pages that `token_ids` begin with, shortest first.
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
            halves: Halves::KeysAndValues,
            format: PageFormat::Int8,
            window_format: PageFormat::F16,
            window_tokens: 128,
        },
    };

    #[test]
    fn everything_an_identity_holds_changes_its_digest() {
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
            vary(|identity| identity.geometry.halves = Halves::Keys),
            vary(|identity| identity.geometry.format = PageFormat::Int4),
            vary(|identity| identity.geometry.window_format = PageFormat::F32),
            vary(|identity| identity.geometry.window_tokens += 1),
        ];
        for (i, digest) in digests.iter().enumerate() {
            assert!(!digests[..i].contains(digest), "number {i}");
        }
    }

    #[test]
    fn a_chain_names_all_tokens_before_it_in_their_order() {
        let (a, b) = ([1; PAGE_TOKENS], [2; PAGE_TOKENS]);
        let root = Chain::root(&IDENTITY);
        assert_eq!(root.next(&a).next(&b), root.next(&a).next(&b));
        assert_ne!(root.next(&a).next(&b), root.next(&b).next(&a));
        assert_ne!(root.next(&b), root.next(&a).next(&b), "another place");
        let mut last = a;
        last[PAGE_TOKENS - 1] += 1;
        assert_ne!(root.next(&last), root.next(&a));
    }

    #[test]
    fn pages_of_tokens_are_whole_ones() {
        let token_ids = [5; 2 * PAGE_TOKENS + 127];
        let chains: Vec<_> = Chain::pages(&IDENTITY, &token_ids).collect();
        let first = Chain::root(&IDENTITY).next(&[5; PAGE_TOKENS]);
        assert_eq!(chains, [first, first.next(&[5; PAGE_TOKENS])]);
    }

    #[test]
    fn digests_are_read_as_they_are_shown() {
        let digest = IDENTITY.digest();
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_hex(&digest.to_string().to_uppercase()), None, "one name for a file");
        assert_eq!(Digest::from_hex("12"), None);
        assert_eq!(format!("{digest:.16}").len(), 16);
    }
}
