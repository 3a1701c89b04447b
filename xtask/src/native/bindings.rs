//! Generates `bindings.rs` as the build script of `mlx-sys` does on macOS.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Wheel;
use crate::run;

/// The wheels of libclang, with which bindgen parses C. None has to be installed.
const LIBCLANG: [(&str, Wheel); 2] = [
    ("x86_64", libclang("c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b")),
    ("aarch64", libclang("54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592")),
];

/// Path of the library in the wheel.
const LIBCLANG_DIR: &str = "libclang-18.1.1.data/platlib/clang/native/";

const fn libclang(sha256: &'static str) -> Wheel {
    Wheel { package: "libclang", version: "18.1.1", sha256 }
}

/// Target for which headers are parsed, on every machine: the C interface is the same on all 64-bit Linux, except for
/// the half-precision types of Arm's headers, which are [`HALF_TYPES`].
const TARGET: &str = "--target=x86_64-unknown-linux-gnu";
pub const HALF_TYPES: &str = "
#[repr(transparent)]
#[derive(Debug, Default, Clone, Copy)]
pub struct float16_t(pub u16);
pub type bfloat16_t = u16;
unsafe extern \"C\" {
    pub fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t;
    pub fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t;
}
";

pub fn generate(out: &Path, mlx_c: &Path) -> Result<()> {
    let (_, wheel) = LIBCLANG
        .iter()
        .find(|(arch, _)| *arch == env::consts::ARCH)
        .with_context(|| format!("no libclang for {}", env::consts::ARCH))?;
    let clang = tempfile::tempdir()?;
    wheel.unpack(clang.path(), |name| name.starts_with(LIBCLANG_DIR))?;
    // bindgen reads the path of the library from the environment only.
    set_env("LIBCLANG_PATH", &clang.path().join(LIBCLANG_DIR));

    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let own_headers = run::output(Command::new(&compiler).arg("-print-file-name=include"))?;
    let system_headers = run::output(Command::new(&compiler).arg("-print-multiarch")).unwrap_or_default();
    let mut builder = bindgen::builder()
        .clang_arg(TARGET)
        .clang_arg(format!("-I{}", mlx_c.display()))
        .clang_args(["-isystem", own_headers.as_str()])
        .clang_args(["-isystem".to_owned(), format!("/usr/include/{system_headers}")])
        .blocklist_function("malloc")
        .blocklist_function("realloc")
        .raw_line(HALF_TYPES);
    let headers = mlx_c.join("mlx/c");
    let mut names: Vec<_> = fs::read_dir(&headers)
        .with_context(|| format!("cannot read {}", headers.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "h"))
        .collect();
    names.sort();
    for name in names {
        builder = builder.header(name.to_string_lossy());
    }
    let bindings = builder.generate().context("bindgen cannot read the headers of mlx-c")?;
    bindings.write_to_file(out.join("bindings.rs")).context("cannot write bindings.rs")
}

#[expect(unsafe_code, reason = "bindgen finds libclang by the environment only")]
fn set_env(name: &str, value: &Path) {
    // SAFETY: this program has started no other thread yet.
    unsafe { env::set_var(name, value) }
}
