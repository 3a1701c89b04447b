//! Memory as macOS counts it. No Mac has run this yet: it is type-checked only.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::{mem, process, ptr};

use mlx_rs::Device;

use super::Resident;

/// Returns the physical footprint, as Activity Monitor shows it. The resident set lacks what is compressed or belongs to
/// the GPU, and `getrusage` reports only its peak.
#[expect(unsafe_code, reason = "the C library has no safe interface")]
pub(super) fn resident() -> Option<Resident> {
    // SAFETY: all zeros are a valid `rusage_info_v4`, which consists of integers.
    let mut usage: libc::rusage_info_v4 = unsafe { mem::zeroed() };
    let pid = process::id() as c_int;
    let out = (&raw mut usage).cast::<libc::rusage_info_t>();
    // SAFETY: `usage` is exclusively owned, and the struct that this flavor fills.
    let status = unsafe { libc::proc_pid_rusage(pid, libc::RUSAGE_INFO_V4, out) };
    (status == 0).then_some(Resident {
        now_bytes: usage.ri_phys_footprint,
        peak_bytes: usage.ri_lifetime_max_phys_footprint,
    })
}

/// Returns the kernel's level of memory pressure: 1 is normal, 2 a warning, 4 critical.
pub(super) fn pressure_level() -> Option<i32> {
    sysctl(c"kern.memorystatus_vm_pressure_level")
}

#[expect(unsafe_code, reason = "the C library has no safe interface")]
fn sysctl(name: &CStr) -> Option<i32> {
    let (mut value, mut value_bytes) = (0i32, size_of::<i32>());
    let out = (&raw mut value).cast::<c_void>();
    // SAFETY: the name ends with a zero, and the call writes at most `value_bytes` to `value`. It sets nothing.
    let status = unsafe { libc::sysctlbyname(name.as_ptr(), out, &raw mut value_bytes, ptr::null_mut(), 0) };
    (status == 0 && value_bytes == size_of::<i32>()).then_some(value)
}

/// Returns how much memory Metal recommends to use at most, which is less than the machine's.
pub(super) fn recommended_working_set_bytes() -> Option<u64> {
    static BYTES: OnceLock<Option<u64>> = OnceLock::new();
    *BYTES.get_or_init(ask_metal)
}

#[expect(unsafe_code, reason = "mlx-rs has no interface for it")]
fn ask_metal() -> Option<u64> {
    // Makes mlx-rs install its error handler; that of mlx-c ends the program.
    Device::gpu().get_type().ok()?;
    let mut bytes = 0;
    // SAFETY: `device` and `info` are valid handles, freed once and not used afterwards; the key ends with a zero.
    let is_known = unsafe {
        let device = mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, 0);
        let mut info = mlx_sys::mlx_device_info_new();
        let key = c"max_recommended_working_set_size".as_ptr();
        let is_known = mlx_sys::mlx_device_info_get(&raw mut info, device) == 0
            && mlx_sys::mlx_device_info_get_size(&raw mut bytes, info, key) == 0;
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(device);
        is_known
    };
    is_known.then_some(bytes as u64).filter(|&bytes| bytes > 0)
}

pub(super) fn bound_allocators() {}
pub(super) fn trim() {}
