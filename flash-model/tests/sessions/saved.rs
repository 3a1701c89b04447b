//! A saved context resumes with the bits of an uninterrupted one, and incompatible sessions are rejected.

use flash_kv::KvError;
use flash_model::{Compute, EngineOptions, KvFormat, ModelError, Resumption, WhenFull, Workload};
use proptest::prelude::*;

use crate::bench::{Bench, FORMATS, TINY, bits, others, tokens};
use crate::tiny::Tiny;

#[test]
fn saved_contexts_resume_bit_exactly_around_every_border() {
    for format in FORMATS {
        for window_tokens in [0, 128] {
            let all = tokens(700);
            let held = [1, 127, 128, 255, 256, 257, 384, 511];
            let drawn = held.map(|held| (held, Bench::new(format)));
            // A model that stores keys only.
            let latent = [257, 384].map(|held| (held, Bench::committed("deepseek_v3", format)));
            for (held, mut bench) in drawn.into_iter().chain(latent) {
                bench.kv.window_tokens = window_tokens;
                let (mut engine, how) = bench.resume();
                assert!(matches!(how, Resumption::New), "{how:?}");
                engine.forward(&all[..held]).unwrap();
                engine.save().unwrap();
                drop(engine);
                bench.room = 4.0;
                let mut engine = bench.saved();
                assert_eq!(engine.held_tokens(), held);
                let got = bits(&mut engine, &all[held..held + 3]);
                assert!(got == bench.wanted(&all[..held + 3]), "{format:?} {window_tokens} {held}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn repeated_saves_give_the_bits_of_one_pass(
        format in prop::sample::select(&FORMATS[..]),
        window_tokens in prop_oneof![Just(0_usize), Just(128), Just(200)],
        compute in prop_oneof![Just(Compute::Auto), Just(Compute::Mlx)],
        rooms in prop::collection::vec(prop_oneof![Just(0.0), Just(4.0), 0.0..1.0_f64], 4),
        lengths in prop::collection::vec(prop_oneof![Just(1_usize), Just(128), 1..300_usize], 1..4),
        rewound in prop_oneof![Just(0_usize), 1..150_usize],
    ) {
        let mut bench = Bench::new(format);
        (bench.compute, bench.kv.window_tokens) = (compute, window_tokens);
        let mut all: Vec<u32> = Vec::new();
        for (length, room) in lengths.iter().zip(&rooms) {
            bench.room = *room;
            let (mut engine, _) = bench.resume();
            prop_assert_eq!(engine.held(), &all[..]);
            let piece = &tokens(all.len() + length)[all.len()..];
            engine.forward(piece).unwrap();
            all.extend_from_slice(piece);
            engine.save().unwrap();
        }
        // Rewound, continued with other tokens, and saved.
        let (mut engine, _) = bench.resume();
        all.truncate(all.len() - rewound.min(all.len() - 1));
        let kept = engine.truncate(all.len()).unwrap();
        prop_assert!(kept == all.len() || kept == 0);
        if matches!(format, KvFormat::Exact | KvFormat::F16) {
            prop_assert_eq!(kept, all.len(), "pages that are their own twins go back to the window");
        }
        all.extend(others(140));
        engine.forward(&all[kept..]).unwrap();
        engine.save().unwrap();
        drop(engine);
        let mut engine = bench.saved();
        prop_assert_eq!(engine.held(), &all[..]);
        all.push(3);
        prop_assert!(bits(&mut engine, &[3]) == bench.wanted(&all));
    }
}

#[test]
fn adopted_sealed_pages_are_not_used_as_window_pages() {
    for format in FORMATS {
        for (window_tokens, share_prefixes) in [(0, false), (128, false), (0, true), (128, true)] {
            let mut bench = Bench::new(format);
            (bench.kv.window_tokens, bench.share_prefixes) = (window_tokens, share_prefixes);
            let all = tokens(513);
            let mut engine = if share_prefixes { bench.open() } else { bench.resume().0 };
            engine.forward(&all[..512]).unwrap();
            engine.save().unwrap();
            engine.share_prefix(512).unwrap();
            drop(engine);
            let mut engine = if share_prefixes { bench.open() } else { bench.saved() };
            assert_eq!(engine.reuse(&all).unwrap(), 512);
            for tokens in [511, 384, 383, 300] {
                let other = [&all[..tokens], &others(9)].concat();
                let reused = engine.reuse(&other).unwrap();
                let got = bits(&mut engine, &other[reused..]);
                assert!(got == bench.wanted(&other), "{format:?} {window_tokens} {share_prefixes} {tokens}");
            }
        }
    }
}

#[test]
fn window_length_does_not_matter_to_sessions_sealed_in_the_window_format() {
    for format in [KvFormat::Exact, KvFormat::F16] {
        let mut bench = Bench::new(format);
        let all = tokens(500);
        let (mut engine, _) = bench.resume();
        engine.forward(&all[..300]).unwrap();
        engine.save().unwrap();
        drop(engine);
        bench.kv.window_tokens = 256;
        let mut engine = bench.saved();
        assert_eq!(engine.held(), &all[..300]);
        assert!(bits(&mut engine, &all[300..]) == bench.wanted(&all));
    }
}

#[test]
fn a_session_of_another_kind_is_refused_with_the_reason() {
    let mut bench = Bench::new(KvFormat::Int8);
    let (mut engine, _) = bench.resume();
    engine.forward(&tokens(300)).unwrap();
    engine.save().unwrap();
    let refused = |bench: &Bench| match bench.try_resume() {
        Err(ModelError::Kv(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(&bench), KvError::Locked { .. }), "the engine has it");
    drop(engine);
    bench.kv.format = KvFormat::Int4;
    assert!(matches!(refused(&bench), KvError::FormatMismatch { .. }));
    (bench.kv.format, bench.kv.window_tokens) = (KvFormat::Int8, 256);
    assert!(matches!(refused(&bench), KvError::WindowMismatch { wanted_tokens: 256, got_tokens: 128, .. }));
    bench.kv.window_tokens = 128;
    bench.compute = Compute::Mlx;
    assert!(matches!(refused(&bench), KvError::ModelMismatch { .. }), "who rounds otherwise");
    bench.compute = Compute::Auto;
    Tiny { tied: false, ..TINY }.write(bench.dir.path());
    assert!(matches!(refused(&bench), KvError::ModelMismatch { .. }));
    TINY.write(bench.dir.path());
    assert_eq!(bench.saved().held_tokens(), 300, "refusing changes nothing");
    for (max_tokens, max_bytes) in [(Some(1024), None), (None, Some(1 << 20))] {
        (bench.kv.max_tokens, bench.kv.max_bytes) = (max_tokens, max_bytes);
        bench.kv.when_full = WhenFull::EvictOldest;
        assert!(matches!(bench.try_resume(), Err(ModelError::Rotates { .. })));
    }
}

#[test]
fn a_session_without_room_is_refused() {
    let bench = Bench::new(KvFormat::Int8);
    let (mut engine, _) = bench.resume();
    engine.forward(&tokens(600)).unwrap();
    engine.save().unwrap();
    drop(engine);
    let model = bench.model();
    let mut options = EngineOptions::new(1 << 40, Workload::new(512, 512).with_kv(bench.kv));
    options.kv_dir = bench.kv_dir();
    let context = model.open_session(&bench.kv_dir(), "talk", &bench.kv).unwrap();
    assert!(matches!(
        model.resume(&options, context),
        Err(ModelError::SessionTooLong { session_tokens: 600, context_tokens: 512 })
    ));
}

#[test]
fn an_interrupted_pass_leaves_a_session_that_goes_on() {
    let bench = Bench::new(KvFormat::Int8);
    let all = tokens(700);
    let (mut engine, _) = bench.resume();
    engine.forward(&all[..384]).unwrap();
    engine.interrupt().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(engine.forward(&all[384..]), Err(ModelError::Interrupted)));
    let held = engine.held_tokens();
    engine.save().unwrap();
    drop(engine);
    let mut engine = bench.saved();
    assert_eq!(engine.held_tokens(), held);
    assert!(bits(&mut engine, &all[held..]) == bench.wanted(&all));
}
