//! Recovery after a crash, as far as the recovery says.

use std::fs;
use std::path::Path;

use flash_model::{KvFormat, Resumption};

use crate::bench::{Bench, FORMATS, bits, others, tokens};

#[test]
fn without_a_save_whole_pages_are_recovered_and_say_whether_they_are_exact() {
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
        // Inexactness survives the next save and the next crash.
        drop(engine);
        let (mut engine, how) = bench.resume();
        assert!(matches!(how, Resumption::Saved { is_exact: false }), "{how:?}");
        engine.forward(&all[engine.held_tokens()..690]).unwrap();
        drop(engine);
        let (mut engine, again) = bench.recovered();
        assert!(!again.is_exact);
        engine.save().unwrap();
        // A context that starts over is exact again.
        drop(engine);
        let (mut engine, how) = bench.resume();
        assert!(matches!(how, Resumption::Saved { is_exact: false }), "{how:?}");
        engine.truncate(0).unwrap();
        engine.forward(&all[..5]).unwrap();
        engine.save().unwrap();
        drop(engine);
        assert_eq!(bench.saved().held_tokens(), 5);
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
fn recovery_after_a_rewind_never_mixes_two_contexts() {
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
