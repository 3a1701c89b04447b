//! Split GGUF models: read as one from any part, or rejected with the name of the faulty part.

use std::fs;
use std::path::{Path, PathBuf};

use flash_convert::gguf::BlockFormat;
use flash_convert::{Conversion, ConvertError, SplitProblem, Target};

use crate::builder::{Builder, Typed};
use crate::converted::convert;
use crate::tiny::{Folder, Tiny};

const COUNT: u32 = 3;

fn name(no: u32, count: u32) -> String {
    format!("m-{:05}-of-{count:05}.gguf", no + 1)
}

fn u16(value: u32) -> Typed {
    Typed { type_id: 2, bytes: (value as u16).to_le_bytes().to_vec() }
}

/// Splits a model into three parts: the first has the metadata, and each has every third tensor.
fn parts(whole: &Builder) -> Vec<Builder> {
    let part = |no: u32| {
        let mut part = Builder::new();
        if no == 0 {
            part.metadata.clone_from(&whole.metadata);
        }
        part.set("split.no", u16(no)).set("split.count", u16(COUNT)).set(
            "split.tensors.count",
            Typed { type_id: 5, bytes: (whole.tensors.len() as i32).to_le_bytes().to_vec() },
        );
        let tensors = whole.tensors.iter().skip(no as usize).step_by(COUNT as usize);
        part.tensors = tensors.cloned().collect();
        part
    };
    (0..COUNT).map(part).collect()
}

fn write(dir: &Path, parts: &[Builder]) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = (0..).zip(parts).map(|(no, _)| dir.join(name(no, COUNT))).collect();
    for (path, part) in paths.iter().zip(parts) {
        fs::write(path, part.build()).unwrap();
    }
    paths
}

fn problem(path: &Path) -> (PathBuf, SplitProblem) {
    match Conversion::open(path).unwrap_err() {
        ConvertError::Split { path, problem } => (path, problem),
        other => panic!("{other}"),
    }
}

fn tiny() -> Builder {
    Tiny::new(BlockFormat::Q4_1).build()
}

#[test]
fn a_split_model_is_read_as_one_whichever_part_is_given() {
    let whole = tiny();
    let wanted = convert(&whole, Target::Keep);
    let dir = tempfile::tempdir().unwrap();
    for (idx, path) in write(dir.path(), &parts(&whole)).iter().enumerate() {
        let conversion = Conversion::open(path).unwrap();
        assert!(conversion.gguf().path().ends_with(name(0, COUNT)));
        let out = dir.path().join(format!("out{idx}"));
        let plan = conversion.plan(Target::Keep, flash_convert::SHARD_BYTES_DEFAULT).unwrap();
        let report = plan.run(&out, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        let found = crate::converted::read(&out, report);
        assert_eq!(found.tensors, wanted.tensors, "{}", path.display());
        assert_eq!(found.config, wanted.config);
    }
}

#[test]
fn a_part_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write(dir.path(), &parts(&tiny()));
    fs::remove_file(&paths[1]).unwrap();
    let wanted = SplitProblem::Missing { given: paths[2].clone(), count: 3 };
    assert_eq!(problem(&paths[2]), (paths[1].clone(), wanted));
    let message = Conversion::open(&paths[0]).unwrap_err().to_string();
    assert!(message.contains("m-00002-of-00003.gguf: no such file"), "{message}");
}

#[test]
fn a_part_of_another_name_is_refused_with_the_name_it_should_have() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write(dir.path(), &parts(&tiny()));
    let renamed = dir.path().join("model.gguf");
    fs::rename(&paths[1], &renamed).unwrap();
    let wanted = SplitProblem::Name { end: "-00002-of-00003.gguf".to_owned() };
    assert_eq!(problem(&renamed), (renamed, wanted));
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = parts(&tiny());
    let paths = write(dir.path(), &whole);
    let number = |key, wanted, found| SplitProblem::Number { key, wanted, found };

    fs::copy(&paths[2], &paths[1]).unwrap();
    assert_eq!(problem(&paths[0]), (paths[1].clone(), number("split.no", 1, Some(2))));

    fs::write(&paths[1], whole[1].clone().set("split.count", u16(2)).build()).unwrap();
    assert_eq!(problem(&paths[0]), (paths[1].clone(), number("split.count", 3, Some(2))));

    fs::write(&paths[1], whole[1].clone().remove("split.no").build()).unwrap();
    assert_eq!(problem(&paths[0]), (paths[1].clone(), number("split.no", 1, None)));

    let mut fewer = whole[1].clone();
    let n_tensors = tiny().tensors.len();
    fewer.tensors.pop();
    fs::write(&paths[1], fewer.build()).unwrap();
    let wanted = number("split.tensors.count", n_tensors, Some(n_tensors - 1));
    assert_eq!(problem(&paths[0]), (paths[0].clone(), wanted));

    let mut twice = whole[1].clone();
    twice.tensors.push(whole[0].tensors[0].clone());
    fs::write(&paths[1], twice.build()).unwrap();
    let error = Conversion::open(&paths[0]).unwrap_err();
    assert!(matches!(&error, ConvertError::Gguf { path, .. } if *path == paths[1]), "{error}");
}

#[test]
fn a_model_with_a_single_part_is_read() {
    let mut whole = tiny();
    whole.set("split.no", u16(0)).set("split.count", u16(1));
    assert!(Conversion::open(&Folder::new(&whole).gguf()).is_ok());
}

#[test]
fn an_lfs_pointer_in_place_of_a_gguf_file_is_called_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n").unwrap();
    let message = Conversion::open(&path).unwrap_err().to_string();
    assert!(message.contains("model.gguf: this is a Git LFS pointer"), "{message}");
}
