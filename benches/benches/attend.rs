//! `kv_attend/<format>/<context>/<heads>x<kv_heads>x<head_dim>`: one token attends to a context in pages, all in
//! memory, with one thread per core. Bytes are those of the pages.

use criterion::{Criterion, Throughput};
use flash_kernels::{Attention, AttentionParams, Heads, Isa, KvCodes, KvRows, Pool, SPAN_TOKENS, Span};
use flash_kv::{GROUP_LEN, PageFormat, PageLayout, TensorLayout, transcode};

/// Heads of a model with 8 · 10⁹ parameters, and of a small one.
const HEADS: [Heads; 2] = [Heads::new(32, 8, 128), Heads::new(9, 3, 64)];

/// Context length, larger than any cache.
const CONTEXT_TOKENS: usize = 1 << 16;

fn pages(heads: Heads, format: PageFormat) -> (PageLayout, Vec<Vec<u64>>) {
    let source = PageLayout::new(heads.kv_heads, heads.head_dim, PageFormat::F32);
    let layout = PageLayout::new(heads.kv_heads, heads.head_dim, format);
    let mut numbers = vec![0_u64; source.record_bytes() / 8];
    for (i, number) in bytemuck::cast_slice_mut::<u64, f32>(&mut numbers).iter_mut().enumerate() {
        *number = (i * 7919 % 2003) as f32 / 1001.5 - 1.0;
    }
    // Allocated as words, so that numbers are aligned.
    let mut record = vec![0_u64; layout.record_bytes() / 8];
    transcode(&source, bytemuck::cast_slice(&numbers), &layout, bytemuck::cast_slice_mut(&mut record))
        .unwrap();
    let n_pages = CONTEXT_TOKENS / SPAN_TOKENS;
    (layout, vec![record; n_pages])
}

fn numbers<'a>(layout: &PageLayout, half: &TensorLayout, record: &'a [u8]) -> KvRows<'a> {
    let codes = &record[half.codes.clone()];
    let terms = [&half.scales, &half.biases].map(|range| &record[range.clone()]);
    let affine = || KvCodes::from_bytes(codes, terms[0], terms[1], GROUP_LEN);
    match layout.format() {
        PageFormat::F32 => KvRows::F32(bytemuck::cast_slice(codes)),
        PageFormat::F16 => KvRows::F16(bytemuck::cast_slice(codes)),
        PageFormat::Int8 => KvRows::Affine8(affine()),
        _ => KvRows::Affine4(affine()),
    }
}

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let pool = Pool::for_machine(Isa::best()).unwrap();
    let mut group = criterion.benchmark_group("kv_attend");
    for heads in HEADS {
        let queries = vec![0.1; heads.query_heads * heads.head_dim];
        let sinks = vec![1.0; heads.query_heads];
        let Heads { query_heads, kv_heads, head_dim, .. } = heads;
        for format in PageFormat::ALL {
            let (layout, records) = pages(heads, *format);
            let spans: Vec<_> = records
                .iter()
                .enumerate()
                .map(|(idx, record)| {
                    let record: &[u8] = bytemuck::cast_slice(record);
                    Span {
                        start: idx * SPAN_TOKENS,
                        n_tokens: SPAN_TOKENS,
                        head_tokens: SPAN_TOKENS,
                        keys: numbers(&layout, layout.keys(), record),
                        values: Some(numbers(&layout, layout.values(), record)),
                    }
                })
                .collect();
            group.throughput(Throughput::Bytes((records.len() * layout.record_bytes()) as u64));
            let name = format!("{format}/{CONTEXT_TOKENS}/{query_heads}x{kv_heads}x{head_dim}");
            // The cost of sinks does not depend on the format.
            let with_sinks =
                (*format == PageFormat::F32).then(|| (format!("{name}/sinks"), Some(&sinks[..])));
            for (name, sinks) in [(name, None)].into_iter().chain(with_sinks) {
                group.bench_function(name, |b| {
                    let mut out = vec![0.0; queries.len()];
                    b.iter(|| {
                        let params = AttentionParams { scale: 0.1, window: None, sinks };
                        let mut attention =
                            Attention::new(&pool, heads, params, &queries, CONTEXT_TOKENS - 1);
                        spans.chunks(4).for_each(|spans| attention.add(spans));
                        attention.finish(&mut out);
                    });
                });
            }
        }
    }
    group.finish();
    criterion.final_summary();
}
