//! Copies of contexts to sessions and back.

use std::fs;
use std::path::Path;

use flash_kv::KvError;
use flash_model::{Compute, KvFormat, ModelError, Resumption};

use crate::bench::{Bench, FORMATS, bits, others, tokens};

fn no_file(error: std::io::Error) -> ModelError {
    ModelError::File { path: "note".into(), error }
}

#[test]
fn copies_go_to_sessions_and_come_back_from_caches_of_every_form() {
    let all = tokens(701);
    for format in FORMATS {
        for (is_paged, compute) in [(false, Compute::Auto), (true, Compute::Auto), (false, Compute::Mlx)] {
            let mut bench = Bench::new(format);
            (bench.kv.is_paged, bench.compute, bench.room) = (is_paged, compute, 4.0);
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
            assert!(matches!(how, Resumption::Saved { is_exact: true }), "{how:?}");
            assert_eq!(engine.held(), &all[..700]);
            let wanted = bench.wanted(&all);
            assert!(bits(&mut engine, &all[700..]) == wanted, "{format:?} {is_paged} {compute:?}");
            // Also in an engine that continues the session.
            if compute == Compute::Auto {
                assert!(bits(&mut bench.saved(), &all[700..]) == wanted, "{format:?} {is_paged}");
            }
            assert!(matches!(
                engine.take_from("nothing", |_| Ok::<_, ModelError>(())),
                Err(ModelError::Kv(KvError::NoSession { .. }))
            ));
        }
    }
}

#[test]
fn copies_of_latent_vectors_go_to_sessions_and_come_back_without_values() {
    let all = tokens(701);
    for format in [KvFormat::Exact, KvFormat::Int4] {
        for (is_paged, compute) in [(false, Compute::Auto), (true, Compute::Auto), (false, Compute::Mlx)] {
            let mut bench = Bench::committed("deepseek_v3", format);
            (bench.kv.is_paged, bench.compute, bench.room) = (is_paged, compute, 4.0);
            let mut engine = bench.open();
            engine.forward(&all[..400]).unwrap();
            engine.save_as("talk", |_| Ok::<_, ModelError>(())).unwrap();
            engine.forward(&all[400..700]).unwrap();
            let wanted = bits(&mut engine, &all[700..]);
            engine.truncate(0).unwrap();
            engine.forward(&others(200)).unwrap();
            engine.take_from("talk", |_| Ok::<_, ModelError>(())).unwrap();
            assert_eq!(engine.held(), &all[..400]);
            engine.forward(&all[400..700]).unwrap();
            assert!(bits(&mut engine, &all[700..]) == wanted, "{format:?} {is_paged} {compute:?}");
        }
    }
}
