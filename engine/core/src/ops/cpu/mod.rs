//! The processor.

pub mod decode;
mod decode_attention;
pub mod decode_cache;
mod decode_dot;
#[cfg(target_arch = "x86_64")]
mod decode_dot_x86;
mod decode_math;
pub mod decode_model;
mod decode_pool;
mod decode_prefill;
mod decode_quantize;
mod decode_rows;
mod attention;
mod device;
mod kernel;
mod lanes;
mod loss;
mod memory;
mod parallel;
mod product;
mod real;
mod rows;
mod weight;

pub use device::CpuOps;
pub use memory::CpuBuffer;
pub use real::Real;
pub use weight::CpuWeight;

#[cfg(test)]
mod gemm_speed {
    use super::decode_pool::DecodePool;
    use super::kernel::Segment;
    use super::product::*;
    #[test]
    fn speed() {
        for threads in [1, 2] {
            let mut pool = DecodePool::new(threads);
            let scratch = ScratchPool::<f32>::new();
            for (m, k, n, transposed) in [
                (1024, 576, 1536, true), (1024, 576, 576, true), (1024, 576, 192, true), (1024, 1536, 576, true),
                (1024, 576, 1536, false), (1024, 1536, 576, false), (512, 576, 49152, true), (512, 49152, 576, false), (1024, 576, 24, true), (1024, 1536, 8, false), (2048,2048,2048,false),
            ] {
                let a = vec![0.5f32; m * k];
                let b = vec![0.25f32; n * k];
                let mut c = vec![0f32; m * n];
                let right = if transposed { Right::Strided { start: b.as_ptr(), row_stride: 1, column_stride: k } } else { Right::Strided { start: b.as_ptr(), row_stride: n, column_stride: 1 } };
                let terms = [Term { left: Segment { a: a.as_ptr(), row_stride: k, column_stride: 1, k }, right }];
                let product = Product { m, n, alpha: 1.0, terms: &terms, c: c.as_mut_ptr(), row_stride: n, column_stride: 1, start: std::ptr::null(), start_row_stride: 0, start_column_stride: 0 };
                let mut best = f64::MAX;
                for _ in 0..8 {
                    let t = std::time::Instant::now();
                    unsafe { product.run(&mut pool, &scratch) };
                    best = best.min(t.elapsed().as_secs_f64());
                }
                let ours = 2.0 * (m * n * k) as f64 / best / 1e9;
                assert_eq!(c[m * n - 1], k as f32 / 8.0);
                let mut best = f64::MAX;
                for _ in 0..4 {
                    let t = std::time::Instant::now();
                    unsafe { let (br, bc) = if transposed { (1isize, k as isize) } else { (n as isize, 1isize) };
                        gemm::gemm(m, n, k, c.as_mut_ptr(), 1, n as isize, false, a.as_ptr(), 1, k as isize, b.as_ptr(), bc, br, 0.0, 1.0, false, false, false, if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) }) };
                    best = best.min(t.elapsed().as_secs_f64());
                }
                println!("{threads} {m}x{k}x{n} {transposed}: ours {ours:.0} GF/s, gemm {:.0}", 2.0 * (m * n * k) as f64 / best / 1e9);
            }
        }
    }
}
