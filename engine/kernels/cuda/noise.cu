// Uniform noise that is drawn from a counter and never stored.
#include "common.cuh"
#include "philox.cuh"

// Laid out as the launcher's.
struct UniformNoise {
    uint32_t key[2];
    uint32_t stream[3];
    float bound;
};

// x += (word · 2⁻³¹ − 1) · bound, without a fused multiply-add. A thread takes a counter at a time, which draws for four numbers.
template <typename T> __device__ void add_noise(const UniformNoise& noise, size_t len, T* x) {
    const size_t thread = blockIdx.x * (size_t)blockDim.x + threadIdx.x, threads = (size_t)gridDim.x * blockDim.x;
    for (size_t block = thread; block * 4 < len; block += threads) {
        uint32_t words[4] = {(uint32_t)block, noise.stream[0], noise.stream[1], noise.stream[2]};
        philox4x32_10(words, noise.key[0], noise.key[1]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const size_t at = block * 4 + i;
            if (at >= len) break;
            const float unit = __fsub_rn(__fmul_rn(__uint2float_rn(words[i]), 1.0f / 2147483648.0f), 1.0f);
            x[at] = from_float<T>(__fadd_rn(to_float(x[at]), __fmul_rn(unit, noise.bound)));
        }
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void add_noise_##name(UniformNoise noise, size_t len, T* x) { add_noise<T>(noise, len, x); }
FOR_EACH_TYPE(DEFINE)
