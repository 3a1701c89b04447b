//! What is saved goes on as if it had never stopped, what a crash leaves goes on as far as it says, and prefixes that prompts
//! share change no bit.

#[path = "streaming/tiny.rs"]
#[expect(dead_code, reason = "other tests draw models of any form")]
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};

use flash_io::IoMode;
use flash_kv::KvError;
use flash_model::{
    Checkpoint, Compute, Engine, EngineOptions, KvFormat, KvPolicy, Model, ModelError, Recovery, Resumption,
    WhenFull, Workload,
};
use proptest::prelude::*;
use tiny::{Format, Tiny};

const CONTEXT_TOKENS: usize = 1500;
const FORMATS: [KvFormat; 4] = [KvFormat::Exact, KvFormat::F16, KvFormat::Int8, KvFormat::Int4];
const TINY: Tiny = Tiny {
    layers: 3,
    heads: 4,
    kv_heads: 2,
    vocab: 90,
    tied: true,
    biases: false,
    experts: None,
    format: Format::Affine(4),
    seed: 12,
};

/// A model, a folder for caches, and one way to keep a cache.
#[derive(Debug)]
struct Bench {
    dir: tempfile::TempDir,
    compute: Compute,
    kv: KvPolicy,
    /// Part of the model and of the cache that memory has room for beyond the floor.
    room: f64,
    share_prefixes: bool,
}

impl Bench {
    fn new(format: KvFormat) -> Self {
        let dir = tempfile::tempdir().unwrap();
        TINY.write(dir.path());
        let kv = KvPolicy { format, in_pages: true, ..KvPolicy::default() };
        Self { dir, compute: Compute::Auto, kv, room: 0.0, share_prefixes: false }
    }

    fn kv_dir(&self) -> PathBuf {
        self.dir.path().join("kv")
    }

    fn session_dir(&self) -> PathBuf {
        self.kv_dir().join("sessions/talk")
    }

    fn model(&self) -> Model {
        Model::open_on(Checkpoint::open(self.dir.path(), IoMode::Pread).unwrap(), self.compute).unwrap()
    }

    fn options(&self, model: &Model) -> EngineOptions {
        let workload = Workload { kv: self.kv, ..Workload::new(CONTEXT_TOKENS, CONTEXT_TOKENS) };
        let all_bytes = model.model_bytes() + model.kv_token_bytes() * CONTEXT_TOKENS as u64;
        let budget_bytes = model.floor_bytes(&workload) + (self.room * all_bytes as f64) as u64;
        let options = EngineOptions::new(budget_bytes, workload);
        EngineOptions { kv_dir: self.kv_dir(), share_prefixes: self.share_prefixes, ..options }
    }

    /// Without a session.
    fn open(&self) -> Engine {
        let model = self.model();
        let options = self.options(&model);
        model.load(&options).unwrap()
    }

    fn try_resume(&self) -> Result<(Engine, Resumption), ModelError> {
        let model = self.model();
        let options = self.options(&model);
        let context = model.open_session(&self.kv_dir(), "talk", &self.kv)?;
        let tokens = context.token_ids().to_vec();
        let how = match context.resumption() {
            Resumption::New => Resumption::New,
            Resumption::Saved => Resumption::Saved,
            Resumption::Recovered(recovery) => Resumption::Recovered(Box::new(copy(recovery))),
        };
        let engine = model.resume(&options, context)?;
        assert_eq!(engine.held(), tokens);
        Ok((engine, how))
    }

    fn resume(&self) -> (Engine, Resumption) {
        self.try_resume().unwrap()
    }

    /// The session, which was saved.
    fn saved(&self) -> Engine {
        let (engine, how) = self.resume();
        assert!(matches!(how, Resumption::Saved), "{how:?}");
        engine
    }

    /// The session, after a crash; and whether it has the bits that it had.
    fn recovered(&self) -> (Engine, Recovery) {
        match self.resume() {
            (engine, Resumption::Recovered(recovery)) => (engine, *recovery),
            (_, how) => panic!("{how:?}"),
        }
    }

    /// The bits behind the last of these tokens, passed at once by an engine of its own.
    fn wanted(&self, tokens: &[u32]) -> Vec<u32> {
        let plain = Self { dir: tempfile::tempdir().unwrap(), room: 4.0, share_prefixes: false, ..*self };
        TINY.write(plain.dir.path());
        bits(&mut plain.open(), tokens)
    }
}

/// Without what cannot be copied.
fn copy(recovery: &Recovery) -> Recovery {
    let mut copied = Recovery::default();
    copied.is_exact = recovery.is_exact;
    copied
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i + 31 * i + 7) % TINY.vocab) as u32).collect()
}

/// Others.
fn others(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 3 + 5 * i + 1) % TINY.vocab) as u32).collect()
}

fn bits(engine: &mut Engine, ids: &[u32]) -> Vec<u32> {
    engine.forward(ids).unwrap().iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn what_was_saved_goes_on_with_the_bits_of_never_having_stopped_around_every_border() {
    for format in FORMATS {
        for window_tokens in [0, 128] {
            let all = tokens(700);
            for held in [1, 127, 128, 255, 256, 257, 384, 511] {
                let mut bench = Bench::new(format);
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
    fn saved_again_and_again_it_has_the_bits_of_one_pass(
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
        // Rewound, gone on with otherwise, and saved.
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
fn what_came_sealed_is_not_taken_for_what_the_window_holds() {
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
fn without_a_save_whole_pages_are_recovered_and_say_how_exact_they_are() {
    for format in FORMATS {
        let bench = Bench::new(format);
        let (mut engine, _) = bench.resume();
        let all = tokens(700);
        engine.forward(&all[..640]).unwrap();
        drop(engine);
        let (mut engine, recovery) = bench.recovered();
        // The last page that has left the window of the token before the last.
        assert_eq!(engine.held(), &all[..384]);
        assert_eq!(recovery.is_exact, matches!(format, KvFormat::Exact | KvFormat::F16));
        let got = engine.forward(&all[384..390]).unwrap();
        let wanted = bench.wanted(&all[..390]);
        if recovery.is_exact {
            assert!(got.iter().map(|logit| logit.to_bits()).eq(wanted));
            continue;
        }
        let wanted: Vec<_> = wanted.into_iter().map(f32::from_bits).collect();
        let greatest = wanted.iter().fold(0.0_f32, |max, logit| max.max(logit.abs()));
        let error = got.iter().zip(&wanted).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
        let bound = if format == KvFormat::Int8 { 2e-2 } else { 0.3 };
        assert!(error < bound * greatest, "{format:?}: {error} of {greatest}");
    }
}

#[test]
fn pages_behind_the_last_save_are_taken_when_they_are_more_and_crashes_in_a_row_lose_nothing() {
    let bench = Bench::new(KvFormat::Exact);
    let all = tokens(1000);
    let (mut engine, _) = bench.resume();
    engine.forward(&all[..300]).unwrap();
    engine.save().unwrap();
    engine.forward(&all[300..390]).unwrap();
    drop(engine);
    // Two pages are whole, and 300 tokens were saved.
    assert_eq!(bench.saved().held_tokens(), 300);
    let (mut engine, _) = bench.resume();
    engine.forward(&all[300..900]).unwrap();
    drop(engine);
    for _ in 0..3 {
        assert_eq!(bench.recovered().0.held(), &all[..768]);
    }
    let (mut engine, _) = bench.recovered();
    assert!(bits(&mut engine, &all[768..]) == bench.wanted(&all));
}

#[test]
fn a_context_that_was_rewound_and_lost_has_the_tokens_of_one_context() {
    let bench = Bench::new(KvFormat::F16);
    let all = tokens(900);
    let (mut engine, _) = bench.resume();
    engine.forward(&all).unwrap();
    engine.save().unwrap();
    assert_eq!(engine.truncate(300).unwrap(), 300);
    let other = [&all[..300], &others(500)].concat();
    engine.forward(&other[300..]).unwrap();
    drop(engine);
    let (mut engine, recovery) = bench.recovered();
    assert!(recovery.is_exact);
    assert_eq!(engine.held(), &other[..640]);
    assert!(bits(&mut engine, &other[640..]) == bench.wanted(&other));
}

#[test]
fn damaged_files_leave_what_is_whole_before_them_and_never_more() {
    let flip = |path: &Path, at: f64| {
        let mut bytes = fs::read(path).unwrap();
        let at = (at * bytes.len() as f64) as usize;
        bytes[at] ^= 0x10;
        fs::write(path, bytes).unwrap();
    };
    let tail = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| path.to_str().unwrap().contains("tail-")).unwrap()
    };
    let all = tokens(700);
    for case in 0..6 {
        let bench = Bench::new(KvFormat::Exact);
        let (mut engine, _) = bench.resume();
        engine.forward(&all[..690]).unwrap();
        engine.save().unwrap();
        drop(engine);
        let dir = bench.session_dir();
        let pages = dir.join("pages.kv");
        match case {
            0 => flip(&tail(&dir), 0.5),
            1 => fs::remove_file(tail(&dir)).unwrap(),
            2 => flip(&dir.join("session.json"), 0.5),
            3 => fs::remove_file(dir.join("session.json")).unwrap(),
            // The third page of four.
            4 => flip(&pages, 0.6),
            _ => fs::File::options().write(true).open(&pages).unwrap().set_len(9000).unwrap(),
        }
        let wanted_tokens = [512, 512, 512, 512, 256, 0][case];
        let (mut engine, recovery) = bench.recovered();
        assert!(recovery.is_exact);
        assert_eq!(engine.held(), &all[..wanted_tokens], "case {case}");
        assert!(bits(&mut engine, &all[wanted_tokens..]) == bench.wanted(&all), "case {case}");
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
    assert!(matches!(refused(&bench), KvError::OtherFormat { .. }));
    bench.kv = KvPolicy { format: KvFormat::Int8, window_tokens: 256, ..bench.kv };
    assert!(matches!(refused(&bench), KvError::OtherWindow { wanted_tokens: 256, got_tokens: 128, .. }));
    bench.kv.window_tokens = 128;
    bench.compute = Compute::Mlx;
    assert!(matches!(refused(&bench), KvError::OtherModel { .. }), "who rounds otherwise");
    bench.compute = Compute::Auto;
    Tiny { tied: false, ..TINY }.write(bench.dir.path());
    assert!(matches!(refused(&bench), KvError::OtherModel { .. }));
    TINY.write(bench.dir.path());
    assert_eq!(bench.saved().held_tokens(), 300, "refusing changes nothing");
    for kv in [
        KvPolicy { max_tokens: Some(1024), ..bench.kv },
        KvPolicy { max_bytes: Some(1 << 20), when_full: WhenFull::EvictOldest, ..bench.kv },
    ] {
        bench.kv = kv;
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
    let workload = Workload { kv: bench.kv, ..Workload::new(512, 512) };
    let options = EngineOptions { kv_dir: bench.kv_dir(), ..EngineOptions::new(1 << 40, workload) };
    let context = model.open_session(&bench.kv_dir(), "talk", &bench.kv).unwrap();
    assert!(matches!(
        model.resume(&options, context),
        Err(ModelError::SessionTooLong { session_tokens: 600, context_tokens: 512 })
    ));
}

fn no_file(error: std::io::Error) -> ModelError {
    ModelError::File { path: "note".into(), error }
}

#[test]
fn copies_go_to_sessions_and_come_back_from_caches_of_every_form() {
    let all = tokens(701);
    for format in FORMATS {
        for (in_pages, compute) in [(false, Compute::Auto), (true, Compute::Auto), (false, Compute::Mlx)] {
            let mut bench = Bench::new(format);
            (bench.kv.in_pages, bench.compute, bench.room) = (in_pages, compute, 4.0);
            let mut engine = bench.open();
            engine.forward(&all[..400]).unwrap();
            engine.save_as("talk", |dir| fs::write(dir.join("note"), "4").map_err(no_file)).unwrap();
            engine.forward(&all[400..700]).unwrap();
            engine.save_as("talk", |_| Ok::<_, ModelError>(())).unwrap();
            engine.truncate(0).unwrap();
            engine.forward(&others(200)).unwrap();
            let read = |dir: &Path| fs::read_to_string(dir.join("note")).map_err(no_file);
            let (note, how) = engine.take_from("talk", read).unwrap();
            assert_eq!(note, "4", "what others keep there stays");
            assert!(matches!(how, Resumption::Saved), "{how:?}");
            assert_eq!(engine.held(), &all[..700]);
            let wanted = bench.wanted(&all);
            assert!(bits(&mut engine, &all[700..]) == wanted, "{format:?} {in_pages} {compute:?}");
            // And in an engine that goes on with it.
            if compute == Compute::Auto {
                assert!(bits(&mut bench.saved(), &all[700..]) == wanted, "{format:?} {in_pages}");
            }
            assert!(matches!(
                engine.take_from("nothing", |_| Ok::<_, ModelError>(())),
                Err(ModelError::Kv(KvError::NoSession { .. }))
            ));
        }
    }
}

#[test]
fn prefixes_are_passed_once_and_change_no_bit() {
    for format in FORMATS {
        for window_tokens in [0, 128, 200] {
            let mut bench = Bench::new(format);
            (bench.share_prefixes, bench.kv.window_tokens) = (true, window_tokens);
            let first = tokens(650);
            let mut engine = bench.open();
            assert_eq!(engine.reuse(&first).unwrap(), 0);
            engine.forward(&first).unwrap();
            // As an answer does: what was in the window when the prompt had passed has left it.
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
fn a_prefix_takes_the_place_of_less_and_a_session_keeps_it() {
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
fn a_damaged_prefix_is_passed_anew() {
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
