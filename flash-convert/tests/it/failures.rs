//! Failed and interrupted conversions leave nothing behind.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use flash_convert::gguf::BlockFormat;
use flash_convert::{Conversion, ConvertError, SHARD_BYTES_DEFAULT, Target};
use flash_kernels::FloatType;
use half::f16;

use crate::converted::run;
use crate::tiny::{Folder, Tiny};

#[test]
fn an_interruption_at_any_point_leaves_nothing() {
    let folder = Folder::new(&Tiny::new(BlockFormat::Q4_0).build());
    let conversion = Conversion::open(&folder.gguf()).unwrap();
    let plan = conversion.plan(Target::Keep, 10_000).unwrap();
    let mut n_steps = 0;
    plan.run(&folder.out(), &mut |_| {
        n_steps += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    fs::remove_dir_all(folder.out()).unwrap();
    assert!(n_steps > 40);
    for stop in 0..n_steps {
        let mut step = 0;
        let error = plan
            .run(&folder.out(), &mut |_| {
                step += 1;
                if step > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap_err();
        assert!(matches!(error, ConvertError::Interrupted { path } if path == folder.out()));
        assert_eq!(folder.others(), [""; 0]);
    }
}

#[test]
fn a_panic_in_the_callback_leaves_nothing() {
    let folder = Folder::new(&Tiny::new(BlockFormat::Q4_0).build());
    let conversion = Conversion::open(&folder.gguf()).unwrap();
    let plan = conversion.plan(Target::Keep, SHARD_BYTES_DEFAULT).unwrap();
    let run = || plan.run(&folder.out(), &mut |_| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    assert_eq!(folder.others(), [""; 0]);
}

#[test]
fn an_existing_directory_or_file_is_not_touched() {
    let folder = Folder::new(&Tiny::new(BlockFormat::F16).build());
    fs::create_dir(folder.out()).unwrap();
    let precious = folder.out().join("precious");
    fs::write(&precious, "x").unwrap();
    let error = run(&folder, Target::Keep, SHARD_BYTES_DEFAULT).unwrap_err();
    assert!(matches!(error, ConvertError::OutputExists { path } if path == folder.out()));
    assert_eq!(fs::read(precious).unwrap(), b"x");
    fs::remove_dir_all(folder.out()).unwrap();

    fs::write(folder.out(), "x").unwrap();
    let error = run(&folder, Target::Keep, SHARD_BYTES_DEFAULT).unwrap_err();
    assert!(matches!(error, ConvertError::OutputExists { .. }), "{error}");
    assert_eq!(folder.others(), ["out"]);
}

#[test]
fn an_empty_directory_is_filled_and_gets_ordinary_permissions() {
    let folder = Folder::new(&Tiny::new(BlockFormat::F16).build());
    fs::create_dir(folder.out()).unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    let wanted = mode(folder.out());
    run(&folder, Target::Keep, SHARD_BYTES_DEFAULT).unwrap();
    assert_eq!(mode(folder.out()), wanted);
    assert!(folder.out().join("model.safetensors").exists());
    assert_eq!(folder.others(), ["out"]);
}

#[test]
fn a_missing_parent_is_named() {
    let folder = Folder::new(&Tiny::new(BlockFormat::F16).build());
    let conversion = Conversion::open(&folder.gguf()).unwrap();
    let plan = conversion.plan(Target::Keep, SHARD_BYTES_DEFAULT).unwrap();
    let parent = folder.dir.path().join("missing");
    let error = plan.run(&parent.join("out"), &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, ConvertError::Write { path, .. } if path == parent));
}

#[test]
fn a_file_that_became_shorter_is_a_read_error_that_names_the_tensor() {
    let folder = Folder::new(&Tiny::new(BlockFormat::F16).build());
    let conversion = Conversion::open(&folder.gguf()).unwrap();
    let plan = conversion.plan(Target::Keep, SHARD_BYTES_DEFAULT).unwrap();
    let file = fs::OpenOptions::new().write(true).open(folder.gguf()).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let error = plan.run(&folder.out(), &mut |_| ControlFlow::Continue(())).unwrap_err();
    let ConvertError::Read { tensor, .. } = error else { panic!("{error}") };
    assert_eq!(tensor, "output_norm.weight");
    assert_eq!(folder.others(), [""; 0]);
}

#[test]
fn values_that_do_not_fit_the_target_are_named() {
    let mut gguf = Tiny::new(BlockFormat::F32).build();
    let data = &mut gguf.tensor_mut("blk.0.ffn_down.weight").data;
    data[40..44].copy_from_slice(&70_000f32.to_le_bytes());
    let folder = Folder::new(&gguf);
    let quantize = Target::Quantize { bits: 4, group_size: 64 };
    for target in [Target::Dense(FloatType::F16), quantize] {
        let error = run(&folder, target, SHARD_BYTES_DEFAULT).unwrap_err();
        let ConvertError::NotFinite { tensor, value_idx, float, .. } = error else { panic!("{error}") };
        assert_eq!((tensor.as_str(), value_idx, float), ("blk.0.ffn_down.weight", 10, "f16"));
        assert_eq!(folder.others(), [""; 0]);
    }
}

#[test]
fn blocks_with_a_broken_scale_are_named() {
    let mut gguf = Tiny::new(BlockFormat::Q8_0).build();
    let data = &mut gguf.tensor_mut("blk.1.attn_v.weight").data;
    data[34..36].copy_from_slice(&f16::NAN.to_le_bytes());
    let folder = Folder::new(&gguf);
    let error = run(&folder, Target::Keep, SHARD_BYTES_DEFAULT).unwrap_err();
    let ConvertError::NotFinite { tensor, value_idx, .. } = error else { panic!("{error}") };
    assert_eq!((tensor.as_str(), value_idx), ("blk.1.attn_v.weight", 32));
    assert_eq!(folder.others(), [""; 0]);
}

/// Requires permission to mount a file system of 256 KiB.
#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let folder = Folder::new(&Tiny::new(BlockFormat::F32).build());
    let small = folder.dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&small).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    }
    let conversion = Conversion::open(&folder.gguf()).unwrap();
    let plan = conversion.plan(Target::Keep, SHARD_BYTES_DEFAULT).unwrap();
    let result = plan.run(&small.join("out"), &mut |_| ControlFlow::Continue(()));
    let n_left = fs::read_dir(&small).unwrap().count();
    let unmounted = Command::new("umount").arg(&small).status().unwrap();
    assert!(unmounted.success());
    let Err(ConvertError::DiskFull { path, wanted_bytes, .. }) = result else { panic!("{result:?}") };
    assert_eq!(path, small.join("out").join("model.safetensors"));
    assert_eq!(wanted_bytes, plan.total_bytes());
    assert_eq!(n_left, 0);
}
