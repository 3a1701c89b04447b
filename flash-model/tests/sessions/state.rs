//! Contexts of models with recurrent states, which can neither be rewound nor recovered from pages alone.

use std::fs;
use std::sync::atomic::Ordering;

use flash_kv::{KvError, TailPart};
use flash_model::{Compute, KvFormat, ModelError};

use crate::bench::{Bench, FORMATS, bits, others, tokens};

/// Models with recurrent layers and attention layers.
const HYBRIDS: [&str; 2] = ["nemotron_h", "qwen3_5_moe"];

/// A model with layers of every kind.
fn hybrid(format: KvFormat) -> Bench {
    Bench::committed("nemotron_h", format)
}

#[test]
fn a_saved_state_resumes_bit_exactly() {
    let all = tokens(420);
    for (name, format) in HYBRIDS.iter().flat_map(|name| FORMATS.map(|format| (name, format))) {
        for compute in [Compute::Auto, Compute::Mlx] {
            for held in [1, 128, 257, 400] {
                let mut bench = Bench::committed(name, format);
                bench.compute = compute;
                let (mut engine, _) = bench.resume();
                engine.forward(&all[..held]).unwrap();
                engine.save().unwrap();
                drop(engine);
                bench.room = 4.0;
                let mut engine = bench.saved();
                assert_eq!(engine.held(), &all[..held]);
                // MLX rounds differently when tokens are batched differently, so both engines run the same passes.
                let (mut one, next) = (bench.alone(), &all[held..held + 3]);
                one.forward(&all[..held]).unwrap();
                assert!(
                    bits(&mut engine, next) == bits(&mut one, next),
                    "{name} {format:?} {compute:?} {held}"
                );
            }
        }
    }
}

#[test]
fn copies_have_the_state_in_caches_of_every_form() {
    let all = tokens(401);
    for (is_paged, compute) in [(false, Compute::Auto), (true, Compute::Auto), (false, Compute::Mlx)] {
        let mut bench = hybrid(KvFormat::Exact);
        (bench.kv.is_paged, bench.compute, bench.room) = (is_paged, compute, 4.0);
        let mut engine = bench.open();
        engine.forward(&all[..400]).unwrap();
        engine.save_as("talk", |_| Ok::<_, ModelError>(())).unwrap();
        let wanted = bits(&mut engine, &all[400..]);
        engine.truncate(0).unwrap();
        engine.forward(&others(200)).unwrap();
        engine.take_from("talk", |_| Ok::<_, ModelError>(())).unwrap();
        assert_eq!(engine.held(), &all[..400]);
        assert!(bits(&mut engine, &all[400..]) == wanted, "{is_paged} {compute:?}");
    }
}

#[test]
fn a_crash_leaves_what_was_saved_or_says_that_pages_have_no_state() {
    let all = tokens(500);
    let bench = hybrid(KvFormat::Exact);
    let (mut engine, _) = bench.resume();
    engine.forward(&all[..400]).unwrap();
    drop(engine);
    // Two pages have left the window.
    let (mut engine, recovery) = bench.recovered();
    assert_eq!((engine.held_tokens(), recovery.tokens_without_state), (0, 256));
    assert!(recovery.is_exact);
    assert!(bits(&mut engine, &all[..150]) == bench.wanted(&all[..150]));
    engine.save().unwrap();
    engine.forward(&all[150..]).unwrap();
    drop(engine);
    let mut engine = bench.saved();
    assert_eq!(engine.held(), &all[..150], "pages behind are given up");
    assert!(bits(&mut engine, &all[150..]) == bench.wanted(&all));
}

#[test]
fn a_damaged_state_is_reported_and_the_context_starts_over() {
    let all = tokens(300);
    let bench = hybrid(KvFormat::Int8);
    let (mut engine, _) = bench.resume();
    engine.forward(&all[..290]).unwrap();
    engine.save().unwrap();
    drop(engine);
    let path = bench.session_dir().join("tail-1");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    fs::write(&path, bytes).unwrap();
    let (mut engine, recovery) = bench.recovered();
    let damaged = Some(TailPart::State(1));
    let told = match recovery.lost {
        Some(KvError::TailDamaged { part, .. }) => Some(part),
        _ => None,
    };
    assert_eq!((engine.held_tokens(), told), (0, damaged));
    assert!(bits(&mut engine, &all) == bench.wanted(&all));
}

#[test]
fn a_pass_that_ends_early_leaves_the_state_as_it_was() {
    let all = tokens(400);
    for (is_paged, compute) in [(false, Compute::Auto), (true, Compute::Auto), (false, Compute::Mlx)] {
        let mut bench = hybrid(KvFormat::Exact);
        (bench.kv.is_paged, bench.compute) = (is_paged, compute);
        let mut engine = bench.open();
        engine.forward(&all[..130]).unwrap();
        let wanted = bits(&mut engine, &all[130..]);
        engine.truncate(0).unwrap();
        engine.forward(&all[..130]).unwrap();
        engine.interrupt().store(true, Ordering::Relaxed);
        assert!(matches!(engine.forward(&others(200)), Err(ModelError::Interrupted)));
        engine.interrupt().store(false, Ordering::Relaxed);
        assert_eq!(engine.held_tokens(), 130);
        assert!(bits(&mut engine, &all[130..]) == wanted, "{is_paged} {compute:?}");
    }
}

#[test]
fn recurrent_contexts_continue_only_from_their_end() {
    let all = tokens(300);
    for is_paged in [false, true] {
        let mut bench = hybrid(KvFormat::Exact);
        bench.kv.is_paged = is_paged;
        let mut engine = bench.open();
        engine.forward(&all[..200]).unwrap();
        assert_eq!(engine.reuse(&all).unwrap(), 200, "it is a part of the prompt");
        assert_eq!(engine.truncate(200).unwrap(), 200);
        assert!(bits(&mut engine, &all[200..]) == bench.wanted(&all));
        for (prompt, why) in [(&all[..300], "one token has to pass"), (&all[..250], "less than is held")] {
            assert_eq!(engine.reuse(prompt).unwrap(), 0, "{why}");
            assert!(bits(&mut engine, prompt) == bench.wanted(prompt));
        }
        assert_eq!(engine.truncate(100).unwrap(), 0);
        assert_eq!(engine.held_tokens(), 0);
        assert!(bits(&mut engine, &all) == bench.wanted(&all));
    }
}

#[test]
fn prefixes_are_not_shared() {
    let mut bench = hybrid(KvFormat::Exact);
    bench.share_prefixes = true;
    let model = bench.model();
    let options = bench.options(&model);
    assert!(matches!(model.load(&options), Err(ModelError::HasState { .. })));
}

#[test]
fn tokens_may_be_evicted_although_the_state_covers_all() {
    let all = tokens(500);
    let mut bench = hybrid(KvFormat::Exact);
    (bench.kv.keep_tokens, bench.kv.max_tokens) = (0, Some(384));
    let wanted = bits(&mut bench.open(), &all);
    let mut engine = bench.open();
    for piece in all[..499].chunks(90) {
        engine.forward(piece).unwrap();
    }
    assert!(bits(&mut engine, &all[499..]) == wanted);
    assert!(wanted != hybrid(KvFormat::Exact).wanted(&all), "some were given up");
}
