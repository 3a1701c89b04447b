//! Listing and eviction of prefix pages.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{PREFIXES_DIR, PrefixPart};
use crate::disk::{is_temporary, list_dir};
use crate::file::read_full;
use crate::record::{RECORD_HEADER_BYTES, peek};
use crate::{Chain, Digest, KvError};

/// Age from which a temporary file, or a twin without its page, is considered stale. A younger one may still be in
/// progress.
const STALE_AGE: Duration = Duration::from_secs(60 * 60);

/// A stored page of a prefix, with its twin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixPage {
    /// Path of the page's file.
    pub path: PathBuf,
    /// Hash of the prefix up to the end of this page.
    pub chain: Chain,
    /// Hash of the prefix before this page; `None` if the header cannot be read.
    pub before: Option<Chain>,
    /// Index of the page in its context.
    pub page_idx: u32,
    /// Size on disk of the page and its twin.
    pub stored_bytes: u64,
    /// Time of last use.
    pub used: SystemTime,
}

/// Result of [`evict_prefixes`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EvictedPrefixes {
    /// Number of pages removed.
    pub pages: usize,
    /// Bytes freed, including stale files.
    pub freed_bytes: u64,
    /// Bytes of the remaining pages.
    pub kept_bytes: u64,
}

/// Lists all prefix pages in `kv_dir`, of any cache. Reads only their headers.
///
/// # Errors
/// [`KvError::Io`] if a directory cannot be listed.
pub fn prefixes(kv_dir: &Path) -> Result<Vec<PrefixPage>, KvError> {
    let root = kv_dir.join(PREFIXES_DIR);
    let mut pages = Vec::new();
    for dir in list_dir(&root)?.into_iter().map(|name| root.join(name)).filter(|dir| dir.is_dir()) {
        for name in list_dir(&dir)? {
            if let Some(chain) = chain_of(&name, PrefixPart::Page) {
                // Another process may have removed the page meanwhile.
                pages.extend(page(dir.join(name), chain));
            }
        }
    }
    Ok(pages)
}

/// Parses the chain from a file name with the extension of `part`.
fn chain_of(name: &str, part: PrefixPart) -> Option<Chain> {
    let (chain, extension) = name.rsplit_once('.')?;
    (extension == part.extension()).then(|| Digest::from_hex(chain).map(Chain)).flatten()
}

fn page(path: PathBuf, chain: Chain) -> Option<PrefixPage> {
    let file = File::open(&path).ok()?;
    let metadata = file.metadata().ok()?;
    let mut head = [0; RECORD_HEADER_BYTES];
    let known = read_full(&file, 0, &mut head).ok().and_then(|_| peek(&head));
    let twin_bytes = fs::metadata(twin(&path)).map_or(0, |twin| twin.len());
    Some(PrefixPage {
        path,
        chain,
        before: known.map(|(_, before)| before),
        page_idx: known.map_or(0, |(page_idx, _)| page_idx),
        stored_bytes: metadata.len() + twin_bytes,
        used: metadata.modified().ok()?,
    })
}

fn twin(page: &Path) -> PathBuf {
    page.with_extension(PrefixPart::Twin.extension())
}

/// Removes a page and its twin, if they still exist. Pages that continue it are unreachable until it is stored again.
///
/// # Errors
/// [`KvError::Io`].
pub fn remove_prefix(page: &PrefixPage) -> Result<(), KvError> {
    remove_file(&page.path)?;
    remove_file(&twin(&page.path))
}

fn remove_file(path: &Path) -> Result<(), KvError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KvError::io(path, "remove")(error)),
        _ => Ok(()),
    }
}

/// Evicts pages until at most `max_bytes` remain, and removes stale files.
///
/// Unreachable pages, whose ancestors are missing or damaged, go first; then the least recently used. A page is never
/// removed before the pages that continue it.
///
/// # Errors
/// [`KvError::Io`].
pub fn evict_prefixes(kv_dir: &Path, max_bytes: u64) -> Result<EvictedPrefixes, KvError> {
    let mut collected = EvictedPrefixes { freed_bytes: remove_stale(kv_dir)?, ..EvictedPrefixes::default() };
    let mut pages = prefixes(kv_dir)?;
    pages.sort_unstable_by_key(|page| (page.page_idx, page.chain));
    collected.kept_bytes = pages.iter().map(|page| page.stored_bytes).sum();

    let idx_of_chain: HashMap<_, _> = pages.iter().enumerate().map(|(i, page)| (page.chain, i)).collect();
    let parents: Vec<_> = pages.iter().map(|page| idx_of_chain.get(&page.before?).copied()).collect();
    let mut n_children = vec![0; pages.len()];
    let mut is_reachable = vec![false; pages.len()];
    // The sort puts every page behind its parent.
    for (i, page) in pages.iter().enumerate() {
        is_reachable[i] = match parents[i] {
            Some(parent) => is_reachable[parent] && pages[parent].page_idx + 1 == page.page_idx,
            None => page.before.is_some() && page.page_idx == 0,
        };
        if let Some(parent) = parents[i] {
            n_children[parent] += 1;
        }
    }

    let rank = |i: usize| Reverse((is_reachable[i], pages[i].used, i));
    let mut leaves: BinaryHeap<_> = (0..pages.len()).filter(|i| n_children[*i] == 0).map(rank).collect();
    while collected.kept_bytes > max_bytes
        && let Some(Reverse((_, _, i))) = leaves.pop()
    {
        remove_prefix(&pages[i])?;
        collected.pages += 1;
        collected.freed_bytes += pages[i].stored_bytes;
        collected.kept_bytes -= pages[i].stored_bytes;
        if let Some(parent) = parents[i] {
            n_children[parent] -= 1;
            if n_children[parent] == 0 {
                leaves.push(rank(parent));
            }
        }
    }
    Ok(collected)
}

/// Removes stale temporary files and stale twins without a page; returns the bytes freed.
fn remove_stale(kv_dir: &Path) -> Result<u64, KvError> {
    let root = kv_dir.join(PREFIXES_DIR);
    let mut freed_bytes = 0;
    for dir in list_dir(&root)?.into_iter().map(|name| root.join(name)).filter(|dir| dir.is_dir()) {
        let names = list_dir(&dir)?;
        let pages: HashSet<_> = names.iter().filter_map(|name| chain_of(name, PrefixPart::Page)).collect();
        for name in &names {
            let is_orphan = chain_of(name, PrefixPart::Twin).is_some_and(|chain| !pages.contains(&chain));
            let path = dir.join(name);
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let is_stale = metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE_AGE));
            if (is_orphan || is_temporary(name)) && is_stale {
                remove_file(&path)?;
                freed_bytes += metadata.len();
            }
        }
    }
    Ok(freed_bytes)
}
