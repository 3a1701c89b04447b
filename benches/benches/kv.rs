//! Pages of a KV cache, on one thread.
//!
//! - `kv_quantize/<format>/<heads>x<head_dim>`: quantizes a page of the window from half precision. Elements are
//!   numbers.
//! - `kv_append/<format>/<heads>x<head_dim>`: quantizes a page, seals it with its checksum and writes it to a file
//!   through the page cache, warm. Bytes are those of the record.
//! - `kv_recover/<format>/<heads>x<head_dim>`: reopens a file of pages and verifies each, warm. Bytes are those of the
//!   file.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use flash_kv::{
    Chain, Digest, Geometry, Identity, KvParts, PAGE_TOKENS, PageFile, PageFormat, PageLayout, RecordHeader,
    seal, transcode,
};

/// KV heads and head dimension of a model with 8 · 10⁹ parameters, and of a small one.
const SHAPES: [(u32, u32); 2] = [(8, 128), (3, 64)];

const FORMATS: [PageFormat; 3] = [PageFormat::Int8, PageFormat::Int4, PageFormat::F16];

/// Pages of the file. Appended pages wrap around, so that the file does not grow.
const N_PAGES: u32 = 32;

fn identity((kv_heads, head_dim): (u32, u32), format: PageFormat) -> Identity {
    let window_format = PageFormat::F16;
    let parts = KvParts::KeysAndValues;
    let geometry =
        Geometry { n_layers: 1, kv_heads, head_dim, parts, format, window_format, window_tokens: 128 };
    Identity { model: Digest([0; 32]), geometry }
}

/// Returns a page in the format of the window.
fn window(layout: &PageLayout) -> Vec<u8> {
    let plain = PageLayout::new(layout.kv_heads(), layout.head_dim(), PageFormat::F32);
    let mut source = vec![0; plain.record_bytes()];
    let numbers = source[plain.keys().codes.start..plain.payload_end()].as_chunks_mut().0;
    for (i, number) in numbers.iter_mut().enumerate() {
        *number = ((i as f32 * 0.7).sin() * 3.0).to_le_bytes();
    }
    let mut record = vec![0; layout.record_bytes()];
    transcode(&plain, &source, layout, &mut record).unwrap();
    record
}

fn pages(c: &mut Criterion) {
    for shape in SHAPES {
        for format in FORMATS {
            let name = format!("{format}/{}x{}", shape.0, shape.1);
            let identity = identity(shape, format);
            let (from, to) = (identity.geometry.window_layout(), identity.geometry.layout());
            let (source, mut record) = (window(&from), vec![0; to.record_bytes()]);

            let mut group = c.benchmark_group("kv_quantize");
            group.throughput(Throughput::Elements((2 * to.n_rows() * to.head_dim()) as u64));
            group.bench_function(&name, |b| {
                b.iter(|| transcode(&from, black_box(&source), &to, black_box(&mut record)).unwrap());
            });
            group.finish();

            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let path = dir.path().join("pages.kv");
            let file = PageFile::create(&path, &identity).unwrap();
            let mut head = RecordHeader {
                format,
                page_idx: 0,
                layer_idx: 0,
                before: Chain::root(&identity),
                token_ids: [7; PAGE_TOKENS],
            };
            let mut append = || {
                transcode(&from, &source, &to, &mut record).unwrap();
                seal(&mut record, &head);
                file.write(head.page_idx, 0, &record).unwrap();
                head.page_idx += 1;
                head.before = head.chain();
                if head.page_idx == N_PAGES {
                    (head.page_idx, head.before) = (0, Chain::root(&identity));
                }
            };
            let mut group = c.benchmark_group("kv_append");
            group.throughput(Throughput::Bytes(to.record_bytes() as u64));
            group.bench_function(&name, |b| b.iter(&mut append));
            group.finish();

            // Fills the file, even if the `kv_append` case was filtered out.
            for _ in 0..2 * N_PAGES {
                append();
            }
            drop(file);
            let mut group = c.benchmark_group("kv_recover");
            group.throughput(Throughput::Bytes(u64::from(N_PAGES) * to.record_bytes() as u64));
            group.bench_function(&name, |b| {
                b.iter(|| {
                    let file = PageFile::open(&path, &identity).unwrap();
                    assert_eq!(file.recover().unwrap().pages, N_PAGES as usize);
                });
            });
            group.finish();
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    pages(&mut criterion);
    criterion.final_summary();
}
