//! Shared prefixes are computed once and change no bit.

use std::fs;

use flash_model::{Compute, KvFormat};

use crate::bench::{Bench, FORMATS, bits, others, tokens};

#[test]
fn prefixes_are_computed_once_and_change_no_bit() {
    for format in FORMATS {
        for (window_tokens, compute) in
            [(0, Compute::Auto), (128, Compute::Auto), (200, Compute::Auto), (128, Compute::Mlx)]
        {
            let mut bench = Bench::new(format);
            (bench.share_prefixes, bench.kv.window_tokens, bench.compute) = (true, window_tokens, compute);
            let first = tokens(650);
            let mut engine = bench.open();
            assert_eq!(engine.reuse(&first).unwrap(), 0);
            engine.forward(&first).unwrap();
            // Like an answer: the window at the end of the prompt has been left behind.
            engine.forward(&others(300)).unwrap();
            engine.share_prefix(first.len()).unwrap();
            drop(engine);
            for (shared, room) in [(0, 0.0), (100, 4.0), (128, 0.0), (300, 4.0), (512, 0.5), (650, 0.0)] {
                bench.room = room;
                let prompt = [&first[..shared], &others(90)].concat();
                let mut engine = bench.open();
                let reused = engine.reuse(&prompt).unwrap();
                assert_eq!(reused, shared / 128 * 128, "{format:?} {window_tokens} {shared}");
                let got = bits(&mut engine, &prompt[reused..]);
                assert!(got == bench.wanted(&prompt), "{format:?} {window_tokens} {shared}");
            }
            let mut engine = bench.open();
            assert_eq!(engine.reuse(&first[..640]).unwrap(), 512, "one token has to pass");
        }
    }
}

#[test]
fn a_prefix_replaces_a_shorter_context_and_a_session_keeps_it() {
    let mut bench = Bench::new(KvFormat::Int8);
    bench.share_prefixes = true;
    let first = tokens(600);
    let mut engine = bench.open();
    engine.forward(&first).unwrap();
    engine.share_prefix(600).unwrap();
    drop(engine);
    let (mut engine, _) = bench.resume();
    engine.forward(&[&first[..200], &others(30)].concat()).unwrap();
    engine.save().unwrap();
    let prompt = [&first[..], &others(3)].concat();
    assert_eq!(engine.reuse(&prompt).unwrap(), 512);
    assert_eq!(engine.reuse(&prompt).unwrap(), 512, "what is held is not copied again");
    engine.forward(&prompt[512..]).unwrap();
    engine.save().unwrap();
    drop(engine);
    let mut engine = bench.saved();
    assert_eq!(engine.held(), prompt);
    assert!(bits(&mut engine, &[7]) == bench.wanted(&[&prompt[..], &[7]].concat()));
}

#[test]
fn a_damaged_prefix_is_recomputed() {
    let mut bench = Bench::new(KvFormat::Int8);
    bench.share_prefixes = true;
    let first = tokens(600);
    let mut engine = bench.open();
    engine.forward(&first).unwrap();
    engine.share_prefix(600).unwrap();
    drop(engine);
    let pages = flash_kv::prefixes(&bench.kv_dir()).unwrap();
    let third = pages.iter().find(|page| page.page_idx == 2).unwrap();
    let mut bytes = fs::read(&third.path).unwrap();
    let at = bytes.len() - 5000;
    bytes[at] ^= 1;
    fs::write(&third.path, bytes).unwrap();
    let mut engine = bench.open();
    assert_eq!(engine.reuse(&first).unwrap(), 256, "what is before it is whole");
    assert!(bits(&mut engine, &first[256..]) == bench.wanted(&first));
    engine.share_prefix(600).unwrap();
    drop(engine);
    assert_eq!(bench.open().reuse(&first).unwrap(), 512, "and it is there again");
}
