//! The instructions of AVX-VNNI.

pub(super) use std::arch::x86_64::{_mm256_dpbusd_avx_epi32 as dpbusd, _mm256_dpwssd_avx_epi32 as dpwssd};
