//! The background writer.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use flash_kv::{KvError, PAGE_TOKENS, PageFile, Writer, WriterConfig};
use parking_lot::Mutex;

use crate::support::{N_LAYERS, assert_pages, identity, record, tokens};

/// A record whose bytes are withheld from the writer until the test releases it.
struct BlockedRecord {
    record: Vec<u8>,
    /// Signals that the writer asked for the bytes.
    asked: mpsc::Sender<()>,
    released: Mutex<mpsc::Receiver<()>>,
}

/// The test's ends of the channels.
struct Unblock {
    asked: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
}

impl AsRef<[u8]> for BlockedRecord {
    fn as_ref(&self) -> &[u8] {
        // `submit` also asks, on the calling thread, to check the length.
        if thread::current().name() == Some("kv-writer") {
            // The test may have dropped its end.
            let _ = self.asked.send(());
            self.released.lock().recv().unwrap();
        }
        &self.record
    }
}

fn file() -> (tempfile::TempDir, Arc<PageFile>, Vec<u32>) {
    let dir = tempfile::tempdir().unwrap();
    let file = PageFile::create(&dir.path().join("pages.kv"), &identity()).unwrap();
    (dir, Arc::new(file), tokens(4 * PAGE_TOKENS, 1))
}

fn page(token_ids: &[u32], page_idx: u32, layer_idx: u32) -> Arc<Vec<u8>> {
    Arc::new(record(&identity(), token_ids, page_idx, layer_idx))
}

fn held(token_ids: &[u32]) -> (Unblock, Arc<BlockedRecord>) {
    let ((release, released), (asks, asked)) = (mpsc::channel(), mpsc::channel());
    let record = record(&identity(), token_ids, 0, 0);
    (
        Unblock { asked, release },
        Arc::new(BlockedRecord { record, asked: asks, released: Mutex::new(released) }),
    )
}

#[test]
fn flushed_records_are_in_the_file_and_counted() {
    let (_dir, file, token_ids) = file();
    let config = WriterConfig { queue_len: 2, sync_every_page: true };
    let writer = Writer::new(Arc::clone(&file), &config).unwrap();
    for layer_idx in 0..N_LAYERS {
        for page_idx in 0..4 {
            writer.submit(page_idx, layer_idx, page(&token_ids, page_idx, layer_idx)).unwrap();
        }
    }
    writer.flush().unwrap();
    assert_pages(&file, &token_ids, 4);
    drop(writer);
    assert_eq!(file.recover().unwrap().pages, 4);
}

#[test]
fn statistics_count_records_bytes_and_syncs_of_whole_pages() {
    let (_dir, file, token_ids) = file();
    let config = WriterConfig { sync_every_page: true, ..WriterConfig::default() };
    let writer = Writer::new(Arc::clone(&file), &config).unwrap();
    for (page_idx, layer_idx) in [(0, 0), (1, 0), (1, 1)] {
        writer.submit(page_idx, layer_idx, page(&token_ids, page_idx, layer_idx)).unwrap().wait().unwrap();
    }
    // The sync of a page follows its last record; once the next record is written, it is done.
    writer.submit(2, 0, page(&token_ids, 2, 0)).unwrap().wait().unwrap();
    let stats = writer.stats();
    assert_eq!((stats.records, stats.syncs), (4, 1));
    assert_eq!(stats.written_bytes, 4 * file.layout().record_bytes() as u64);
    assert!(stats.busy > Duration::ZERO);
}

#[test]
fn record_is_readable_when_its_handle_is_done() {
    let (_dir, file, token_ids) = file();
    let writer = Writer::new(Arc::clone(&file), &WriterConfig::default()).unwrap();
    let (hold, first) = held(&token_ids);
    let first = writer.submit(0, 0, first).unwrap();
    assert!(!first.is_done());
    hold.release.send(()).unwrap();
    first.wait().unwrap();
    assert!(first.is_done());
    file.read(0, 0, &mut vec![0; file.layout().record_bytes()]).unwrap();
}

#[test]
fn full_queue_makes_the_submitter_wait() {
    let (_dir, file, token_ids) = file();
    let config = WriterConfig { queue_len: 1, ..WriterConfig::default() };
    let writer = Writer::new(file, &config).unwrap();
    let (hold, first) = held(&token_ids);
    writer.submit(0, 0, first).unwrap();
    thread::scope(|scope| {
        let (passed, passes) = mpsc::channel();
        let (writer, token_ids) = (&writer, &token_ids);
        scope.spawn(move || {
            for page_idx in 1..4 {
                writer.submit(page_idx, 0, page(token_ids, page_idx, 0)).unwrap();
                passed.send(page_idx).unwrap();
            }
        });
        // One record is in progress and one is queued.
        assert_eq!(passes.recv(), Ok(1));
        assert_eq!(passes.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
        hold.release.send(()).unwrap();
        assert_eq!([passes.recv(), passes.recv()], [Ok(2), Ok(3)]);
    });
    writer.flush().unwrap();
    assert_eq!(writer.stats().records, 4);
}

#[test]
fn dropped_writer_ends_with_the_record_it_writes() {
    let (_dir, file, token_ids) = file();
    let writer = Writer::new(Arc::clone(&file), &WriterConfig::default()).unwrap();
    let (hold, first) = held(&token_ids);
    let first = writer.submit(0, 0, first).unwrap();
    let second = writer.submit(0, 1, page(&token_ids, 0, 1)).unwrap();
    hold.asked.recv().unwrap();
    let dropping = thread::spawn(move || drop(writer));
    // Dropping waits for the record in progress and discards the queue.
    let error = second.wait().unwrap_err();
    assert!(matches!(error, KvError::WriterClosed { unwritten_records: 2, .. }), "{error}");
    assert!(!dropping.is_finished());
    hold.release.send(()).unwrap();
    dropping.join().unwrap();
    assert!(first.is_done() && !second.is_done());
}

#[test]
fn panic_of_a_record_ends_the_thread_and_wakes_all_waiters() {
    let (_dir, file, token_ids) = file();
    let writer = Writer::new(file, &WriterConfig::default()).unwrap();
    let (hold, first) = held(&token_ids);
    drop(hold);
    let first = writer.submit(0, 0, first).unwrap();
    assert!(matches!(first.wait(), Err(KvError::WriterClosed { .. })));
    assert!(matches!(writer.flush(), Err(KvError::WriterClosed { unwritten_records: 1, .. })));
    let refused = (0..).find_map(|_| writer.submit(1, 0, page(&token_ids, 1, 0)).err());
    assert!(matches!(refused, Some(KvError::WriterClosed { .. })));
}
