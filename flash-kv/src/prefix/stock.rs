//! What is kept of prefixes, and what is given up for room.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{PREFIXES_DIR, PrefixPart};
use crate::disk::{is_unfinished, names};
use crate::file::read_full;
use crate::record::{HEAD_BYTES, peek};
use crate::{Chain, Digest, KvError};

/// The age from which a file that belongs to no page is taken for left over. A younger one may be in the making.
const LEFT_OVER: Duration = Duration::from_secs(60 * 60);

/// A page of a prefix, with its twin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixPage {
    /// The file of the page.
    pub path: PathBuf,
    /// Names the page and all before it.
    pub chain: Chain,
    /// Names those before it; none if the head of the file cannot be read.
    pub before: Option<Chain>,
    /// How many pages are before it.
    pub page_idx: u32,
    /// What the page and its twin take on the disk.
    pub stored_bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
}

/// What [`collect_prefixes`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Pages.
    pub pages: usize,
    /// What they and files left over took.
    pub freed_bytes: u64,
    /// What the pages that are left take.
    pub kept_bytes: u64,
}

/// All pages of prefixes in `kv_dir`, of whatever cache. Only their heads are looked at.
///
/// # Errors
/// [`KvError::Io`] if a directory cannot be listed.
pub fn prefixes(kv_dir: &Path) -> Result<Vec<PrefixPage>, KvError> {
    let root = kv_dir.join(PREFIXES_DIR);
    let mut pages = Vec::new();
    for dir in names(&root)?.into_iter().map(|name| root.join(name)).filter(|dir| dir.is_dir()) {
        for name in names(&dir)? {
            if let Some(chain) = chain_of(&name, PrefixPart::Page) {
                // It may have been removed since.
                pages.extend(page(dir.join(name), chain));
            }
        }
    }
    Ok(pages)
}

/// The chain in the name of a part's file.
fn chain_of(name: &str, part: PrefixPart) -> Option<Chain> {
    let (chain, extension) = name.rsplit_once('.')?;
    (extension == part.extension()).then(|| Digest::from_hex(chain).map(Chain)).flatten()
}

fn page(path: PathBuf, chain: Chain) -> Option<PrefixPage> {
    let file = File::open(&path).ok()?;
    let metadata = file.metadata().ok()?;
    let mut head = [0; HEAD_BYTES];
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

/// Removes a page and its twin; that it is gone already is no error. Pages behind it cannot be found any more, until it is
/// put again.
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

/// Removes pages until all together take at most `max_bytes`, and files that belong to none.
///
/// Pages that cannot be found, because one before them is gone or damaged, go first; then those whose last use is the
/// longest ago. A page that another one goes on from is not removed before that one.
///
/// # Errors
/// [`KvError::Io`].
pub fn collect_prefixes(kv_dir: &Path, max_bytes: u64) -> Result<Collected, KvError> {
    let mut collected = Collected { freed_bytes: remove_left_over(kv_dir)?, ..Collected::default() };
    let mut pages = prefixes(kv_dir)?;
    pages.sort_unstable_by_key(|page| (page.page_idx, page.chain));
    collected.kept_bytes = pages.iter().map(|page| page.stored_bytes).sum();

    let place: HashMap<_, _> = pages.iter().enumerate().map(|(i, page)| (page.chain, i)).collect();
    let parents: Vec<_> = pages.iter().map(|page| place.get(&page.before?).copied()).collect();
    let mut n_children = vec![0; pages.len()];
    let mut found = vec![false; pages.len()];
    // Pages come behind those that they go on from.
    for (i, page) in pages.iter().enumerate() {
        found[i] = match parents[i] {
            Some(parent) => found[parent] && pages[parent].page_idx + 1 == page.page_idx,
            None => page.before.is_some() && page.page_idx == 0,
        };
        if let Some(parent) = parents[i] {
            n_children[parent] += 1;
        }
    }

    let rank = |i: usize| Reverse((found[i], pages[i].used, i));
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

/// Removes old files that were never finished, and old twins without a page; returns their bytes.
fn remove_left_over(kv_dir: &Path) -> Result<u64, KvError> {
    let root = kv_dir.join(PREFIXES_DIR);
    let mut freed_bytes = 0;
    for dir in names(&root)?.into_iter().map(|name| root.join(name)).filter(|dir| dir.is_dir()) {
        let names = names(&dir)?;
        let pages: HashSet<_> = names.iter().filter_map(|name| chain_of(name, PrefixPart::Page)).collect();
        for name in &names {
            let alone = chain_of(name, PrefixPart::Twin).is_some_and(|chain| !pages.contains(&chain));
            let path = dir.join(name);
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let old = metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFT_OVER));
            if (alone || is_unfinished(name)) && old {
                remove_file(&path)?;
                freed_bytes += metadata.len();
            }
        }
    }
    Ok(freed_bytes)
}
