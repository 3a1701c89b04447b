//! Fault injection: I/O errors, full disks and crashes at every nth disk operation of a context.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::disk::crash::{Fault, FaultyDisk};
use crate::support::{N_LAYERS, assert_pages, before, identity, noise, record, record_in, tokens};
use crate::{
    Chain, KvError, PAGE_TOKENS, PageFile, PrefixPart, PrefixStore, Session, SessionState, TailPart, Writer,
    WriterConfig,
};

const NAME: &str = "talk";

/// Sizes of the states of layers without keys and values.
const STATE_BYTES: [usize; 2] = [5000, 12];

/// A state of the context: all tokens, and the position from which they are not in sealed pages.
#[derive(Debug, Clone, PartialEq)]
struct State {
    token_ids: Vec<u32>,
    first_token: usize,
}

impl State {
    fn new(token_ids: &[u32], len: usize) -> Self {
        Self { token_ids: token_ids[..len].to_vec(), first_token: len / PAGE_TOKENS * PAGE_TOKENS }
    }

    fn to_save(&self) -> SessionState<'_> {
        SessionState {
            token_ids: &self.token_ids,
            first_token: self.first_token,
            is_exact: true,
            state_bytes: &STATE_BYTES,
        }
    }

    fn n_pages(&self) -> usize {
        self.first_token / PAGE_TOKENS
    }

    /// Contents of a part of the tail, derived from the tokens.
    fn tail(&self, part: TailPart, len: usize) -> Vec<u8> {
        let first = match part {
            TailPart::Layer(idx) => u64::from(idx),
            TailPart::State(idx) => 100 + u64::from(idx),
        };
        noise(len, self.token_ids.iter().fold(first, |sum, id| sum * 31 % 1_000_003 + u64::from(*id)))
    }
}

/// Progress of a script.
#[derive(Debug, Default)]
struct Log {
    created: bool,
    /// The last state whose save succeeded.
    saved: Option<State>,
    /// The state whose save was in progress when the script ended.
    saving: Option<State>,
}

/// A step of a script.
enum Step {
    /// Writes pages up to this number through a [`Writer`].
    Seal(usize),
    Save(usize),
    /// Truncates to a number of pages, after which different tokens follow.
    Rewind(usize),
}

/// Runs the steps until one fails.
fn run(
    disk: Arc<dyn Disk>,
    kv_dir: &Path,
    steps: &[Step],
    contexts: [&[u32]; 2],
    log: &mut Log,
) -> Result<(), KvError> {
    let identity = identity();
    let mut session = Session::create_on(disk, kv_dir, NAME, &identity)?;
    log.created = true;
    let [mut token_ids, rewound] = contexts;
    let (mut sealed, mut n_steps) = (0, 0);
    for step in steps {
        n_steps += 1;
        match step {
            Step::Seal(n_pages) => {
                let config = WriterConfig { sync_every_page: n_steps % 2 == 0, ..WriterConfig::default() };
                let writer = Writer::new(Arc::clone(session.pages()), &config)?;
                // A prefill writes all pages of a layer before the next layer.
                for layer_idx in 0..N_LAYERS {
                    for page_idx in sealed..*n_pages as u32 {
                        writer.submit(
                            page_idx,
                            layer_idx,
                            Arc::new(record(&identity, token_ids, page_idx, layer_idx)),
                        )?;
                    }
                }
                sealed = *n_pages as u32;
                writer.flush()?;
            }
            Step::Save(len) => {
                let state = State::new(token_ids, *len);
                log.saving = Some(state.clone());
                session.save(&state.to_save(), |part, bytes| {
                    bytes.copy_from_slice(&state.tail(part, bytes.len()));
                })?;
                log.saved = log.saving.take();
            }
            Step::Rewind(n_pages) => {
                session.pages().truncate(*n_pages)?;
                (token_ids, sealed) = (rewound, *n_pages as u32);
            }
        }
    }
    Ok(())
}

/// Returns a disk without faults, and without the latency of real syncs.
fn without_faults(root: &Path) -> Arc<dyn Disk> {
    Arc::new(FaultyDisk::new(root, Fault::Fail, u64::MAX, 0))
}

/// Reopens the files of a run, checks every byte against the states that may be there, and continues from them.
fn check(kv_dir: &Path, contexts: [&[u32]; 2], rewinds: bool, log: &Log, case: &str) {
    let identity = identity();
    let disk = without_faults(kv_dir.parent().unwrap());
    let mut opened = match Session::open_on(Arc::clone(&disk), kv_dir, NAME, &identity) {
        Ok(opened) => opened,
        Err(KvError::NoSession { .. }) if !log.created => return,
        Err(error) => panic!("{case}: {error}"),
    };
    let found = &opened.sealed;
    let context = contexts.into_iter().find(|context| context.starts_with(&found.token_ids));
    let context = context.unwrap_or_else(|| panic!("{case}: unknown tokens"));
    assert_eq!(found.token_ids.len(), found.pages * PAGE_TOKENS, "{case}");
    assert_pages(opened.session.pages(), context, found.pages);

    match &opened.saved {
        Some(saved) => {
            let states: Vec<_> = log.saved.iter().chain(&log.saving).collect();
            let state = states.into_iter().find(|state| state.token_ids == saved.token_ids);
            let state =
                state.unwrap_or_else(|| panic!("{case}: neither the earlier state nor the later one"));
            assert_eq!(
                (saved.pages, saved.tail.first_token()),
                (state.n_pages(), state.first_token),
                "{case}"
            );
            assert!(found.pages >= saved.pages, "{case}");
            saved.tail.expect_states(&STATE_BYTES).unwrap();
            let layers =
                (0..N_LAYERS).map(|layer_idx| (TailPart::Layer(layer_idx), saved.tail.layer_bytes()));
            let states = (0..).map(TailPart::State).zip(STATE_BYTES);
            for (part, len) in layers.chain(states) {
                let mut bytes = vec![0; len];
                saved.tail.read(part, &mut bytes).unwrap();
                assert!(bytes == state.tail(part, len), "{case}: {part} has other bytes");
            }
        }
        None if rewinds => {
            let gone = matches!(opened.lost, Some(KvError::SavedPagesMissing { .. }));
            assert!(gone || (opened.lost.is_none() && log.saved.is_none()), "{case}: {:?}", opened.lost);
        }
        None => {
            assert!(opened.lost.is_none(), "{case}: {:?}", opened.lost);
            assert!(log.saved.is_none(), "{case}: the saved state is gone");
        }
    }

    // The session stays usable from whatever was recovered.
    let n_pages = found.pages;
    let next = State::new(context, (n_pages + 1) * PAGE_TOKENS + 5);
    for layer_idx in 0..N_LAYERS {
        let record = record(&identity, context, n_pages as u32, layer_idx);
        opened.session.pages().write(n_pages as u32, layer_idx, &record).unwrap();
    }
    let fill = |part, bytes: &mut [u8]| bytes.copy_from_slice(&next.tail(part, bytes.len()));
    opened.session.save(&next.to_save(), fill).unwrap();
    let dir = opened.session.dir().to_owned();
    drop(opened);
    let opened = Session::open_on(disk, kv_dir, NAME, &identity).unwrap();
    assert_eq!(opened.saved.unwrap().token_ids, next.token_ids, "{case}");
    assert_eq!(opened.sealed.pages, n_pages + 1, "{case}");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 3, "{case}: only pages, tail and manifest");
}

/// Runs a script once for every n, with the fault at the nth disk operation.
///
/// Seeds vary how much of the failing write is done, and which unsynced changes a crash undoes.
fn at_every_operation(fault: Fault, seeds: Range<u64>, steps: &[Step]) {
    let (first, mut second) = (tokens(8 * PAGE_TOKENS, 1), tokens(8 * PAGE_TOKENS, 2));
    // Both contexts share their first page, to which the script rewinds.
    second[..PAGE_TOKENS].copy_from_slice(&first[..PAGE_TOKENS]);
    let contexts = [&first[..], &second[..]];
    let rewinds = steps.iter().any(|step| matches!(step, Step::Rewind(_)));
    for seed in seeds {
        for n in 1.. {
            let root = tempfile::tempdir().unwrap();
            let kv_dir = root.path().join("kv");
            let disk = Arc::new(FaultyDisk::new(root.path(), fault, n, seed * 1_000 + n));
            let mut log = Log::default();
            let outcome = run(Arc::clone(&disk) as _, &kv_dir, steps, contexts, &mut log);
            if let (Err(error), Fault::Full) = (&outcome, fault) {
                assert!(matches!(error, KvError::DiskFull { .. }), "operation {n}: {error}");
            }
            disk.end();
            check(&kv_dir, contexts, rewinds, &log, &format!("{fault:?} at operation {n}, seed {seed}"));
            if disk.n_operations() < n {
                assert!(outcome.is_ok(), "without a fault");
                break;
            }
        }
    }
}

const GROWS: [Step; 6] =
    [Step::Seal(2), Step::Save(300), Step::Seal(3), Step::Save(400), Step::Seal(5), Step::Save(640)];

const REWINDS: [Step; 5] = [Step::Seal(4), Step::Save(600), Step::Rewind(1), Step::Seal(2), Step::Save(300)];

#[test]
fn crash_at_any_operation_leaves_the_earlier_state_or_the_later_one() {
    at_every_operation(Fault::Crash, 0..6, &GROWS);
}

#[test]
fn crash_of_a_rewound_context_leaves_a_state_or_whole_pages() {
    // Many seeds: a crash rarely keeps a whole new page while it loses the truncation.
    at_every_operation(Fault::Crash, 0..24, &REWINDS);
}

#[test]
fn failure_at_any_operation_is_an_error_and_leaves_the_earlier_state_or_the_later_one() {
    at_every_operation(Fault::Fail, 0..2, &GROWS);
    at_every_operation(Fault::Fail, 0..2, &REWINDS);
}

#[test]
fn full_disk_at_any_write_is_reported_and_leaves_the_earlier_state() {
    at_every_operation(Fault::Full, 0..2, &GROWS);
}

#[test]
fn failed_write_is_latched_with_its_evidence() {
    for fault in [Fault::Fail, Fault::Full] {
        let root = tempfile::tempdir().unwrap();
        // The first four operations create the file: write header, sync, rename, sync directory.
        let disk = Arc::new(FaultyDisk::new(root.path(), fault, 5, 1));
        let (identity, token_ids) = (identity(), tokens(256, 1));
        let file = PageFile::create_on(disk, &root.path().join("pages.kv"), &identity).unwrap();
        let first = file.write(0, 0, &record(&identity, &token_ids, 0, 0)).unwrap_err().to_string();
        let others = [
            file.write(1, 1, &record(&identity, &token_ids, 1, 1)),
            file.sync(),
            file.truncate(0),
            file.check(),
        ];
        for other in others {
            assert_eq!(other.unwrap_err().to_string(), first);
        }
        match file.check().unwrap_err() {
            KvError::Write { offset, wanted_bytes, .. } => {
                assert_eq!(
                    (fault, offset, wanted_bytes),
                    (Fault::Fail, 4096, file.layout().record_bytes() as u64)
                );
            }
            error => assert!(fault == Fault::Full && matches!(error, KvError::DiskFull { .. }), "{error}"),
        }
    }
}

/// Stores three pages with their twins.
fn put_all(store: &PrefixStore, token_ids: &[u32]) -> Result<(), KvError> {
    let identity = identity();
    for (page_idx, chain) in (0..).zip(Chain::pages(&identity, token_ids)) {
        for part in [PrefixPart::Twin, PrefixPart::Page] {
            store.put(chain, page_idx, part, |layer_idx, record| {
                record.copy_from_slice(&record_in(
                    store.layout(part),
                    &identity,
                    token_ids,
                    page_idx,
                    layer_idx,
                ));
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn crash_at_any_operation_leaves_whole_pages_of_prefixes_or_none() {
    let (identity, token_ids) = (identity(), tokens(3 * PAGE_TOKENS, 4));
    for (seed, fault) in (0..).zip([Fault::Crash, Fault::Crash, Fault::Crash, Fault::Fail, Fault::Full]) {
        for n in 1.. {
            let root = tempfile::tempdir().unwrap();
            let kv_dir = root.path().join("kv");
            let disk = Arc::new(FaultyDisk::new(root.path(), fault, n, seed * 1_000 + n));
            let put = PrefixStore::open_on(Arc::clone(&disk) as _, &kv_dir, &identity)
                .and_then(|store| put_all(&store, &token_ids));
            disk.end();
            let store = PrefixStore::open_on(without_faults(root.path()), &kv_dir, &identity).unwrap();
            let found = store.longest(&token_ids);
            for (page_idx, chain) in (0..).zip(&found.chains) {
                for part in [PrefixPart::Page, PrefixPart::Twin] {
                    let mut got = vec![0; store.layout(part).record_bytes()];
                    for layer_idx in 0..N_LAYERS {
                        let head = store.read(*chain, page_idx, layer_idx, part, &mut got).unwrap();
                        assert_eq!(head.before, before(&identity, &token_ids, page_idx));
                        let wanted =
                            record_in(store.layout(part), &identity, &token_ids, page_idx, layer_idx);
                        assert!(got == wanted, "{fault:?} at {n}");
                    }
                }
            }
            put_all(&store, &token_ids).unwrap();
            assert_eq!(store.longest(&token_ids).pages(), 3, "{fault:?} at {n}");
            if disk.n_operations() < n {
                assert!(put.is_ok() && found.pages() == 3);
                break;
            }
        }
    }
}
