// AdamW with moments in 8 bits: a code for each number, a scale for each 256 (Dettmers et al., "8-bit Optimizers via Block-wise
// Quantization", ICLR 2022).
#include "common.cuh"

constexpr int BLOCK = 256;

// Laid out as the launcher's.
struct AdamW8bitFactors {
    float decay, keep_first, first_weight, keep_second, second_weight, step_size, root_correction, epsilon;
};

// Border k of `parts` equal parts of [0.1, 1], from the nearer end, with one rounding.
__device__ __forceinline__ float border(int k, int parts) {
    const float step = (1.0f - 0.1f) / parts;
    return k < (parts + 1) / 2 ? __fmaf_rn(step, k, 0.1f) : __fmaf_rn(-step, parts - k, 1.0f);
}

// Value of a code between 0 and 1: number `index` of those whose first power of ten has `first` of them, the next twice as many, and so on.
__device__ __forceinline__ float between(int index, int first) {
    const float powers[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    const int doubled = 31 - __clz(index + first), parts = 1 << doubled, k = index + first - parts;
    return __fmul_rn(powers[doubled - (first - 1)], (border(k, parts) + border(k + 1, parts)) / 2.0f);
}

// The code books of core/src/quant/dynamic_map.rs.
__device__ __forceinline__ float signed_value(int code) {
    if (code == 127) return 0.0f;
    if (code == 255) return 1.0f;
    return code > 127 ? between(code - 128, 1) : -between(126 - code, 1);
}

__device__ __forceinline__ float unsigned_value(int code) {
    if (code == 0) return 0.0f;
    return code == 255 ? 1.0f : between(code - 1, 2);
}

// The nearest code; at a midpoint the lower one.
__device__ __forceinline__ uint8_t nearest(const float* values, float x) {
    int code = 0;
#pragma unroll
    for (int step = 128; step > 0; step /= 2)
        if (__fmul_rn(0.5f, __fadd_rn(values[code + step - 1], values[code + step])) < x) code += step;
    return code;
}

// One thread a number, one block of threads a block of numbers. Rounded as the processor's: only g · (1 − β1) + m is fused.
extern "C" __global__ void __launch_bounds__(BLOCK) adamw_8bit(
    AdamW8bitFactors f, size_t len, float* parameters, const float* gradients, uint8_t* first_codes, uint8_t* second_codes,
    float* first_scales, float* second_scales) {
    __shared__ float signed_values[BLOCK], unsigned_values[BLOCK], partial[32];
    signed_values[threadIdx.x] = signed_value(threadIdx.x);
    unsigned_values[threadIdx.x] = unsigned_value(threadIdx.x);
    __syncthreads();
    const size_t i = blockIdx.x * (size_t)BLOCK + threadIdx.x;
    const bool there = i < len;
    float first = 0.0f, second = 0.0f;
    if (there) {
        const float gradient = gradients[i];
        const float old_first = __fmul_rn(signed_values[first_codes[i]], first_scales[blockIdx.x]);
        const float old_second = __fmul_rn(unsigned_values[second_codes[i]], second_scales[blockIdx.x]);
        first = __fmaf_rn(gradient, f.first_weight, __fmul_rn(old_first, f.keep_first));
        second = __fadd_rn(
            __fmul_rn(old_second, f.keep_second), __fmul_rn(__fmul_rn(f.second_weight, gradient), gradient));
        const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(second), f.root_correction), f.epsilon);
        const float change = __fdiv_rn(__fmul_rn(-f.step_size, first), denominator);
        parameters[i] = __fadd_rn(__fmul_rn(parameters[i], f.decay), change);
    }
    const float first_scale = block_max(fabsf(first), partial), second_scale = block_max(second, partial);
    if (there) {
        first_codes[i] = nearest(signed_values, first_scale > 0.0f ? __fmul_rn(first, __fdiv_rn(1.0f, first_scale)) : 0.0f);
        second_codes[i] =
            nearest(unsigned_values, second_scale > 0.0f ? __fmul_rn(second, __fdiv_rn(1.0f, second_scale)) : 0.0f);
    }
    // Every thread has read the old ones: the sums above waited for all.
    if (threadIdx.x == 0) {
        first_scales[blockIdx.x] = first_scale;
        second_scales[blockIdx.x] = second_scale;
    }
}
