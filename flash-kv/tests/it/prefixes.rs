//! Prefix pages: lookup, damage and eviction.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use flash_kv::{
    Chain, Identity, KvError, PAGE_TOKENS, PageFormat, PrefixPart, PrefixStore, RecordFault, evict_prefixes,
    prefixes, remove_prefix,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{N_LAYERS, identity, record_in, tokens};

struct Bench {
    dir: TempDir,
    identity: Identity,
    store: PrefixStore,
}

impl Bench {
    fn new(identity: Identity) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = PrefixStore::open(dir.path(), &identity).unwrap();
        Self { dir, identity, store }
    }

    fn chains(&self, token_ids: &[u32]) -> Vec<Chain> {
        Chain::pages(&self.identity, token_ids).collect()
    }

    fn put_part(&self, token_ids: &[u32], page_idx: u32, part: PrefixPart) {
        let chain = self.chains(token_ids)[page_idx as usize];
        let layout = self.store.layout(part);
        let put = self.store.put(chain, page_idx, part, |layer_idx, record| {
            record.copy_from_slice(&record_in(layout, &self.identity, token_ids, page_idx, layer_idx));
            Ok(())
        });
        put.unwrap();
    }

    /// Stores all whole pages, with their twins if there are any.
    fn put(&self, token_ids: &[u32]) {
        for page_idx in 0..(token_ids.len() / PAGE_TOKENS) as u32 {
            self.put_part(token_ids, page_idx, PrefixPart::Twin);
            self.put_part(token_ids, page_idx, PrefixPart::Page);
        }
    }

    fn read(
        &self,
        token_ids: &[u32],
        page_idx: u32,
        layer_idx: u32,
        part: PrefixPart,
    ) -> Result<Vec<u8>, KvError> {
        let mut record = vec![0; self.store.layout(part).record_bytes()];
        let chain = self.chains(token_ids)[page_idx as usize];
        self.store.read(chain, page_idx, layer_idx, part, &mut record).map(|_| record)
    }

    /// Sets the last use of a page to this many seconds ago.
    fn age(&self, token_ids: &[u32], page_idx: usize, seconds: u64) {
        let path = self.store.path(self.chains(token_ids)[page_idx], PrefixPart::Page);
        let at = SystemTime::now() - Duration::from_secs(seconds);
        File::open(path).unwrap().set_modified(at).unwrap();
    }

    fn page_bytes(&self) -> u64 {
        prefixes(self.dir.path()).unwrap()[0].stored_bytes
    }

    fn pages(&self) -> usize {
        prefixes(self.dir.path()).unwrap().len()
    }
}

#[test]
fn shared_prefix_is_found_and_read_back() {
    let bench = Bench::new(identity());
    let token_ids = tokens(3 * PAGE_TOKENS, 1);
    bench.put(&token_ids);
    let mut prompt = token_ids[..2 * PAGE_TOKENS + 50].to_vec();
    prompt.extend(tokens(200, 2));
    let found = bench.store.longest(&prompt);
    assert_eq!(found.chains, bench.chains(&token_ids)[..2]);
    for part in [PrefixPart::Page, PrefixPart::Twin] {
        for layer_idx in 0..N_LAYERS {
            let wanted = record_in(bench.store.layout(part), &bench.identity, &token_ids, 1, layer_idx);
            assert!(bench.read(&token_ids, 1, layer_idx, part).unwrap() == wanted);
        }
    }
    assert_eq!(bench.store.longest(&tokens(500, 3)).pages(), 0);
    assert_eq!(bench.store.longest(&token_ids[..127]).pages(), 0, "no whole page");
}

#[test]
fn another_identity_shares_nothing() {
    let bench = Bench::new(identity());
    let token_ids = tokens(2 * PAGE_TOKENS, 1);
    bench.put(&token_ids);
    let mut other = identity();
    other.geometry.window_tokens = 64;
    let other = PrefixStore::open(bench.dir.path(), &other).unwrap();
    assert_eq!(other.longest(&token_ids).pages(), 0);
}

#[test]
fn prefix_ends_where_all_twins_of_its_window_are_stored() {
    let mut wide = identity();
    wide.geometry.window_tokens = 2 * PAGE_TOKENS as u32;
    let bench = Bench::new(wide);
    let token_ids = tokens(5 * PAGE_TOKENS, 1);
    for page_idx in 0..5 {
        bench.put_part(&token_ids, page_idx, PrefixPart::Page);
    }
    assert_eq!(bench.store.longest(&token_ids).pages(), 0, "without twins");
    for (twin, pages) in [(2, 0), (1, 3), (4, 3), (3, 5)] {
        bench.put_part(&token_ids, twin, PrefixPart::Twin);
        assert_eq!(bench.store.longest(&token_ids).pages(), pages, "with the twin of page {twin}");
    }
    assert_eq!(bench.store.longest(&token_ids[..PAGE_TOKENS]).pages(), 0);
    bench.put_part(&token_ids, 0, PrefixPart::Twin);
    assert_eq!(bench.store.longest(&token_ids[..PAGE_TOKENS]).pages(), 1, "a window reaches no further back");
}

#[test]
fn page_in_the_window_format_is_its_own_twin() {
    for format in [PageFormat::F16, PageFormat::F32] {
        let mut plain = identity();
        (plain.geometry.format, plain.geometry.window_format) = (format, format);
        let bench = Bench::new(plain);
        let token_ids = tokens(2 * PAGE_TOKENS, 1);
        bench.put(&token_ids);
        assert!(!bench.store.needs_twins());
        assert_eq!(bench.store.longest(&token_ids).pages(), 2);
        let page = bench.read(&token_ids, 1, 1, PrefixPart::Page).unwrap();
        assert!(bench.read(&token_ids, 1, 1, PrefixPart::Twin).unwrap() == page);
        assert_eq!(bench.page_bytes(), u64::from(N_LAYERS) * page.len() as u64, "once");
    }
}

#[test]
fn stored_page_is_not_written_again() {
    let bench = Bench::new(identity());
    let token_ids = tokens(PAGE_TOKENS, 1);
    bench.put(&token_ids);
    let chain = bench.chains(&token_ids)[0];
    let put = bench.store.put(chain, 0, PrefixPart::Page, |_, _| panic!("it is there"));
    put.unwrap();
}

#[test]
fn records_of_another_page_are_rejected() {
    let bench = Bench::new(identity());
    let (token_ids, others) = (tokens(PAGE_TOKENS, 1), tokens(PAGE_TOKENS, 2));
    let chain = bench.chains(&token_ids)[0];
    let layout = bench.store.layout(PrefixPart::Page);
    for (token_ids, layer) in [(&others, 0), (&token_ids, 1)] {
        let put = bench.store.put(chain, 0, PrefixPart::Page, |_, record| {
            record.copy_from_slice(&record_in(layout, &bench.identity, token_ids, 0, layer));
            Ok(())
        });
        assert!(matches!(put, Err(KvError::Record { .. })), "{put:?}");
    }
    let dir = bench.store.path(chain, PrefixPart::Page).parent().unwrap().to_owned();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "nothing is left of the attempts");
}

#[test]
fn damaged_page_is_removed_and_the_prefix_ends_before_it() {
    for part in [PrefixPart::Page, PrefixPart::Twin] {
        let bench = Bench::new(identity());
        let token_ids = tokens(3 * PAGE_TOKENS, 1);
        bench.put(&token_ids);
        let path = bench.store.path(bench.chains(&token_ids)[1], part);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        bench.read(&token_ids, 1, 0, part).unwrap();
        let error = bench.read(&token_ids, 1, 1, part).unwrap_err();
        let KvError::Record { path: at, page_idx: 1, layer_idx: 1, fault: RecordFault::Checksum { .. } } =
            error
        else {
            panic!("{error}")
        };
        assert_eq!(at, path);
        assert!(!path.exists());
        let error = bench.read(&token_ids, 1, 0, part).unwrap_err();
        assert!(matches!(error, KvError::Record { fault: RecordFault::Missing, .. }), "{error}");
        // Without a page, nothing behind it is found; without its twin, a run cannot start right behind it.
        assert_eq!(bench.store.longest(&token_ids).pages(), if part == PrefixPart::Page { 1 } else { 3 });
        assert_eq!(bench.store.longest(&token_ids[..2 * PAGE_TOKENS]).pages(), 1);
        bench.put(&token_ids);
        assert_eq!(bench.store.longest(&token_ids).pages(), 3);
    }
}

#[test]
fn truncated_page_is_not_found() {
    let bench = Bench::new(identity());
    let token_ids = tokens(2 * PAGE_TOKENS, 1);
    bench.put(&token_ids);
    let path = bench.store.path(bench.chains(&token_ids)[1], PrefixPart::Page);
    File::options().write(true).open(path).unwrap().set_len(5_000).unwrap();
    assert_eq!(bench.store.longest(&token_ids).pages(), 1);
    let error = bench.read(&token_ids, 1, 1, PrefixPart::Page).unwrap_err();
    assert!(matches!(error, KvError::Record { fault: RecordFault::Short { .. }, .. }), "{error}");
}

#[test]
fn least_recently_used_leaves_go_first_and_never_a_page_that_others_continue() {
    let bench = Bench::new(identity());
    // A trunk of two pages with two branches of two.
    let mut branches = [tokens(4 * PAGE_TOKENS, 1), tokens(4 * PAGE_TOKENS, 2)];
    let [first, second] = &mut branches;
    second[..2 * PAGE_TOKENS].copy_from_slice(&first[..2 * PAGE_TOKENS]);
    for branch in &branches {
        bench.put(branch);
    }
    let [first, second] = &branches;
    // The trunk is the oldest, and the first branch older than the second.
    for page_idx in 0..4 {
        bench.age(second, page_idx, 100 - page_idx as u64);
    }
    for page_idx in 2..4 {
        bench.age(first, page_idx, 200 - page_idx as u64);
    }
    let bytes = bench.page_bytes();
    let left = [(5, [3, 4]), (4, [2, 4]), (3, [2, 3]), (2, [2, 2]), (1, [1, 1]), (0, [0, 0])];
    for (n_pages, wanted) in left {
        let collected = evict_prefixes(bench.dir.path(), n_pages * bytes + 1).unwrap();
        assert_eq!((collected.pages, collected.freed_bytes), (1, bytes));
        assert_eq!(collected.kept_bytes, n_pages * bytes);
        assert_eq!(bench.pages() as u64, n_pages);
        // Checks files only, because a lookup would count as use.
        let there = |branch: &Vec<u32>| {
            let chains = bench.chains(branch);
            chains.iter().filter(|chain| bench.store.holds(**chain, PrefixPart::Page)).count()
        };
        assert_eq!([there(first), there(second)], wanted, "{n_pages} pages");
    }
}

#[test]
fn lookup_counts_as_use() {
    let bench = Bench::new(identity());
    let (a, b) = (tokens(PAGE_TOKENS, 1), tokens(PAGE_TOKENS, 2));
    for (token_ids, age) in [(&a, 200), (&b, 100)] {
        bench.put(token_ids);
        bench.age(token_ids, 0, age);
    }
    assert_eq!(bench.store.longest(&a).pages(), 1);
    evict_prefixes(bench.dir.path(), bench.page_bytes()).unwrap();
    assert_eq!([bench.store.longest(&a).pages(), bench.store.longest(&b).pages()], [1, 0]);
}

#[test]
fn unreachable_pages_go_first() {
    let bench = Bench::new(identity());
    let (a, b) = (tokens(3 * PAGE_TOKENS, 1), tokens(PAGE_TOKENS, 2));
    bench.put(&a);
    bench.put(&b);
    bench.age(&b, 0, 1_000);
    let first = bench.chains(&a)[0];
    let listed = prefixes(bench.dir.path()).unwrap();
    remove_prefix(listed.iter().find(|page| page.chain == first).unwrap()).unwrap();
    let collected = evict_prefixes(bench.dir.path(), bench.page_bytes()).unwrap();
    assert_eq!((collected.pages, bench.store.longest(&b).pages()), (2, 1));
}

#[test]
fn stale_files_are_removed_and_young_ones_are_left() {
    let bench = Bench::new(identity());
    let token_ids = tokens(PAGE_TOKENS, 1);
    bench.put(&token_ids);
    let page = bench.store.path(bench.chains(&token_ids)[0], PrefixPart::Page);
    let names = ["x.page.part-7-0", "y.page.part-7-1"].map(|name| page.with_file_name(name));
    for (path, age) in names.iter().zip([2 * 3600, 60]) {
        fs::write(path, [0; 100]).unwrap();
        File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let collected = evict_prefixes(bench.dir.path(), u64::MAX).unwrap();
    assert_eq!((collected.pages, collected.freed_bytes), (0, 100));
    assert_eq!([names[0].exists(), names[1].exists()], [false, true]);
    assert_eq!(bench.store.longest(&token_ids).pages(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn remaining_pages_are_reachable_and_fit(
        branches in prop::collection::vec((0..3u64, 1..4usize, 0..1_000u64), 1..6),
        max_pages in 0..10u64,
    ) {
        let mut plain = identity();
        (plain.geometry.format, plain.geometry.head_dim) = (PageFormat::Int4, 2);
        let bench = Bench::new(plain);
        for (seed, pages, age) in &branches {
            // Equal seeds share their first page.
            let mut token_ids = tokens(PAGE_TOKENS, *seed);
            token_ids.extend(tokens((pages - 1) * PAGE_TOKENS, 100 + *pages as u64));
            bench.put(&token_ids);
            bench.age(&token_ids, pages - 1, *age);
        }
        let max_bytes = max_pages * bench.page_bytes();
        let collected = evict_prefixes(bench.dir.path(), max_bytes).unwrap();
        let left = prefixes(bench.dir.path()).unwrap();
        prop_assert!(left.iter().map(|page| page.stored_bytes).sum::<u64>() <= max_bytes);
        prop_assert_eq!(left.iter().map(|page| page.stored_bytes).sum::<u64>(), collected.kept_bytes);
        let root = Chain::root(&bench.identity);
        for page in &left {
            let before = page.before.unwrap();
            prop_assert!(before == root || left.iter().any(|other| other.chain == before));
        }
    }
}
