//! bitsandbytes' signed 8-bit code book: an exponent of variable length and a linear fraction (Dettmers, "8-Bit Approximations for Parallelism
//! in Deep Learning", 2016).
//!
//! For i in 0..7: the midpoints of 2^i equal parts of [0.1, 1], times 10^(i - 6), with both signs; and 0 and 1. The values are a table because
//! the rounding of the original's `linspace` has no portable formula.

/// The bits of the positive values below 1, ascending.
#[rustfmt::skip]
const POSITIVE: [u32; 127] = [
    0x3513_a3b7, 0x365a_1a94, 0x3702_05ff, 0x37b2_4206, 0x3837_8034, 0x388a_efb3, 0x38ba_1f4b, 0x3923_d70b,
    0x398c_e705, 0x39c7_e283, 0x3a01_6f01, 0x3a1e_ecc1, 0x3a3c_6a80, 0x3a59_e83e, 0x3a77_65ff, 0x3aa7_ef9d,
    0x3af1_a9fc, 0x3b1d_b22d, 0x3b42_8f5c, 0x3b67_6c8a, 0x3b86_24dd, 0x3b98_9374, 0x3bab_020d, 0x3bbd_70a4,
    0x3bcf_df3b, 0x3be2_4dd3, 0x3bf4_bc6a, 0x3c03_9581, 0x3c0c_cccd, 0x3c16_0418, 0x3c1f_3b64, 0x3c3a_e148,
    0x3c68_f5c3, 0x3c8b_851f, 0x3ca2_8f5d, 0x3cb9_999a, 0x3cd0_a3d7, 0x3ce7_ae15, 0x3cfe_b852, 0x3d0a_e148,
    0x3d16_6667, 0x3d21_eb85, 0x3d2d_70a3, 0x3d38_f5c3, 0x3d44_7ae1, 0x3d50_0000, 0x3d5b_851f, 0x3d67_0a3d,
    0x3d72_8f5d, 0x3d7e_147b, 0x3d84_cccd, 0x3d8a_8f5d, 0x3d90_51eb, 0x3d96_147b, 0x3d9b_d70a, 0x3da1_999a,
    0x3da7_5c2a, 0x3dad_1eb8, 0x3db2_e148, 0x3db8_a3d7, 0x3dbe_6667, 0x3dc4_28f7, 0x3dc9_eb85, 0x3ddb_3334,
    0x3df8_0000, 0x3e0a_6666, 0x3e18_cccd, 0x3e27_3333, 0x3e35_999a, 0x3e44_0000, 0x3e52_6666, 0x3e60_cccd,
    0x3e6f_3333, 0x3e7d_9999, 0x3e86_0000, 0x3e8d_3334, 0x3e94_6666, 0x3e9b_999a, 0x3ea2_cccc, 0x3eaa_0000,
    0x3eb1_3333, 0x3eb8_6666, 0x3ebf_999a, 0x3ec6_cccc, 0x3ece_0000, 0x3ed5_3333, 0x3edc_6666, 0x3ee3_999a,
    0x3eea_cccc, 0x3ef2_0000, 0x3ef9_3332, 0x3f00_3333, 0x3f03_cccc, 0x3f07_6666, 0x3f0b_0000, 0x3f0e_999a,
    0x3f12_3334, 0x3f15_cccd, 0x3f19_6666, 0x3f1d_0000, 0x3f20_999a, 0x3f24_3334, 0x3f27_cccd, 0x3f2b_6666,
    0x3f2f_0000, 0x3f32_999a, 0x3f36_3334, 0x3f39_cccd, 0x3f3d_6666, 0x3f41_0000, 0x3f44_999a, 0x3f48_3333,
    0x3f4b_cccd, 0x3f4f_6666, 0x3f53_0000, 0x3f56_999a, 0x3f5a_3333, 0x3f5d_cccd, 0x3f61_6666, 0x3f65_0000,
    0x3f68_999a, 0x3f6c_3333, 0x3f6f_cccd, 0x3f73_6666, 0x3f77_0000, 0x3f7a_999a, 0x3f7e_3333,
];

/// Code to value, ascending; code 127 is 0, code 255 is 1.
pub const DYNAMIC_MAP: [f32; 256] = dynamic_map();

/// Midpoint i lies between the values i and i + 1, rounded to f32.
const MIDPOINTS: [f32; 255] = midpoints();

const fn dynamic_map() -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut i = 0;
    while i < POSITIVE.len() {
        values[128 + i] = f32::from_bits(POSITIVE[i]);
        values[126 - i] = -values[128 + i];
        i += 1;
    }
    values[255] = 1.0;
    values
}

const fn midpoints() -> [f32; 255] {
    let mut midpoints = [0.0; 255];
    let mut i = 0;
    while i < 255 {
        midpoints[i] = (DYNAMIC_MAP[i] + DYNAMIC_MAP[i + 1]) / 2.0;
        i += 1;
    }
    midpoints
}

/// The code whose value is nearest to a number; at a midpoint the lower one.
pub(super) fn nearest_code(value: f32) -> u8 {
    MIDPOINTS.partition_point(|midpoint| *midpoint < value) as u8
}
