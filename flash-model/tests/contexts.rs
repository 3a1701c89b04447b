//! Contexts of an engine, with every backend.

#[path = "common/contexts.rs"]
mod contexts;
#[path = "common/family.rs"]
mod family;
#[path = "common/tokens.rs"]
mod tokens;

use contexts::{FAMILIES, Memory, engine};
use family::family;
use flash_model::{Compute, Context, Engine, KvFormat, KvPolicy, Logits, Segment};
use tokens::{bits, sequence};

#[test]
fn a_fork_and_its_origin_continue_on_their_own() {
    for compute in
        if cfg!(target_os = "linux") { &[Compute::Native, Compute::Mlx][..] } else { &[Compute::Mlx] }
    {
        for name in FAMILIES {
            let (dir, vocab) = family(name);
            for (memory, format) in [
                (Memory::Floor, KvFormat::Exact),
                (Memory::Plenty, KvFormat::Exact),
                (Memory::Floor, KvFormat::Int8),
                (Memory::Plenty, KvFormat::F16),
            ] {
                let mut engine = engine(&dir, *compute, memory, KvPolicy::new(format), 4);
                let (ids, others) = (sequence(0, 340, vocab), sequence(1, 340, vocab));
                for n_common in [0, 5, 290] {
                    let replay = |engine: &mut Engine, rest: &[u32]| {
                        engine.truncate(0).unwrap();
                        if n_common > 0 {
                            engine.forward(&ids[..n_common]).unwrap();
                        }
                        rest.iter()
                            .map(|id| bits([engine.forward(&[*id]).unwrap().as_slice()]))
                            .collect::<Vec<_>>()
                    };
                    let wanted = [&ids[n_common..][..3], &others[n_common..][..3]];
                    let wanted = wanted.map(|rest| replay(&mut engine, rest));

                    let mut origin = engine.new_context();
                    let mut logits = Logits::default();
                    if n_common > 0 {
                        engine.pass(&mut [Segment::new(&mut origin, &ids[..n_common])], &mut logits).unwrap();
                    }
                    let mut fork = engine.fork(&mut origin).unwrap();
                    assert_eq!(fork.held(), origin.held());
                    for at in 0..3 {
                        for (context, ids, wanted) in
                            [(&mut origin, &ids, &wanted[0]), (&mut fork, &others, &wanted[1])]
                        {
                            let token = &ids[n_common + at..][..1];
                            engine.pass(&mut [Segment::new(context, token)], &mut logits).unwrap();
                            let what =
                                format!("{name}, {compute:?}, {memory:?}, {format:?}, {n_common}, {at}");
                            assert!(bits(logits.of(0)) == wanted[at], "{what}");
                        }
                    }
                    // A fork of a fork outlives both.
                    let mut last = engine.fork(&mut fork).unwrap();
                    drop((origin, fork));
                    assert_eq!(last.held_tokens(), n_common + 3);
                    engine.pass(&mut [Segment::new(&mut last, &[1])], &mut logits).unwrap();
                }
            }
        }
    }
}

#[test]
fn contexts_with_operations_of_mlx_compute_about_the_same_together_as_alone() {
    for name in FAMILIES {
        let (dir, vocab) = family(name);
        let mut engine = engine(&dir, Compute::Mlx, Memory::Plenty, KvPolicy::default(), 3);
        let sequences: Vec<_> = (0..3).map(|idx| sequence(idx, 20, vocab)).collect();
        let wanted: Vec<Vec<f32>> = sequences
            .iter()
            .map(|ids| {
                engine.truncate(0).unwrap();
                engine.forward(ids).unwrap()
            })
            .collect();
        let mut contexts: Vec<Context> = (0..2).map(|_| engine.new_context()).collect();
        let mut logits = Logits::default();
        for rows in [0..7, 7..19, 19..20] {
            let mut segments: Vec<Segment<'_>> = contexts
                .iter_mut()
                .zip(&sequences)
                .map(|(context, ids)| Segment::new(context, &ids[rows.clone()]))
                .collect();
            engine.pass(&mut segments, &mut logits).unwrap();
        }
        for (idx, wanted) in wanted.iter().enumerate().take(2) {
            assert_close(logits.of(idx).next().unwrap(), wanted, name);
        }
    }
}

#[test]
fn a_segment_with_no_room_or_a_token_out_of_range_is_refused_alone() {
    let (dir, vocab) = family("qwen3");
    let mut engine = engine(&dir, Compute::Auto, Memory::Floor, KvPolicy::default(), 3);
    let mut contexts: Vec<Context> = (0..2).map(|_| engine.new_context()).collect();
    let mut logits = Logits::default();
    let ids = sequence(0, contexts[0].max_tokens() + 1, vocab);
    let wanted = bits([engine.forward(&ids[..3]).unwrap().as_slice()]);
    for (tokens, text) in [(ids.as_slice(), "tokens"), (&[vocab as u32], "vocabulary"), (&[], "empty")] {
        let [refused, other] = contexts.as_mut_slice() else { unreachable!() };
        assert_eq!(other.truncate(0).unwrap(), 0);
        let refused = Segment { n_logits: 0, ..Segment::new(refused, tokens) };
        let outcomes = engine.pass(&mut [refused, Segment::new(other, &ids[..3])], &mut logits).unwrap();
        let [Err(error), Ok(())] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!((logits.of(0).len(), bits(logits.of(1))), (0, wanted.clone()));
        assert_eq!(contexts[0].held_tokens(), 0);
    }
    assert!(engine.pass(&mut [], &mut logits).unwrap().is_empty());
}

#[test]
#[should_panic(expected = "a context of this engine")]
fn a_context_of_another_engine_is_a_bug() {
    let (dir, _) = family("qwen3");
    let open = || engine(&dir, Compute::Auto, Memory::Floor, KvPolicy::default(), 2);
    let (mut engine, other) = (open(), open());
    let mut context = other.new_context();
    let _ = engine.pass(&mut [Segment::new(&mut context, &[1])], &mut Logits::default());
}

#[test]
fn with_operations_of_mlx_a_draft_kept_in_part_leaves_about_the_state_of_the_kept_tokens() {
    for name in ["qwen3", "nemotron_h-latent-q4", "qwen3_next"] {
        let (dir, vocab) = family(name);
        let mut engine = engine(&dir, Compute::Mlx, Memory::Floor, KvPolicy::default(), 2);
        let ids = sequence(0, 20, vocab);
        let wanted = engine.forward(&ids).unwrap();
        let (mut context, mut logits) = (engine.new_context(), Logits::default());
        engine.pass(&mut [Segment::new(&mut context, &ids[..9])], &mut logits).unwrap();
        let draft: Vec<u32> = ids[9..14].iter().copied().chain([3, 1]).collect();
        engine.pass(&mut [Segment::tentative(&mut context, &draft)], &mut logits).unwrap();
        context.commit(4).unwrap();
        engine.pass(&mut [Segment::new(&mut context, &ids[13..])], &mut logits).unwrap();
        assert_close(logits.of(0).next().unwrap(), &wanted, name);
    }
}

fn assert_close(got: &[f32], wanted: &[f32], name: &str) {
    let largest = wanted.iter().fold(0.0_f32, |max, logit| max.max(logit.abs()));
    let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-3 * largest;
    assert!(got.iter().zip(wanted).all(is_close), "{name}");
}
