// Frozen weights of 4 and 8 bits as plain numbers. Formats and roundings are bitsandbytes': the value in f32, rounded once to T.
#include "common.cuh"

// Scales of blocks of 64: as they are, or as 8-bit codes less an offset with a scale for each 256 of them.
struct BlockScales {
    const float* plain;
    const uint8_t* codes;
    const float* absmax;
    const float* code_book;
    float offset;

    __device__ __forceinline__ float of(size_t block) const {
        // Two roundings, as the reference: no fused multiply-add.
        return plain ? plain[block] : __fadd_rn(__fmul_rn(code_book[codes[block]], absmax[block / 256]), offset);
    }
};

// Runs of eight numbers, four bytes, a thread takes at a time: what they need is asked for before any of it is used.
constexpr int RUNS = 4;

// The first number of a byte is in its high half. `values` holds the 16 values of codes.
template <typename T>
__device__ void nf4(size_t len, const uint8_t* packed, BlockScales scales, const float* values, T* to) {
    // A register of each lane holds one value; lanes ask one another.
    const float mine = values[threadIdx.x % 16];
    const size_t step = (size_t)gridDim.x * blockDim.x, runs = len / 8;
    // All lanes of a warp stay in the loop together.
    for (size_t base = blockIdx.x * (size_t)blockDim.x; base < runs; base += step * RUNS) {
        uint32_t codes[RUNS];
        float scale[RUNS];
#pragma unroll
        for (int i = 0; i < RUNS; i++) {
            const size_t run = base + i * step + threadIdx.x;
            codes[i] = run < runs ? reinterpret_cast<const uint32_t*>(packed)[run] : 0;
            scale[i] = run < runs ? scales.of(run / 8) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < RUNS; i++) {
            const size_t run = base + i * step + threadIdx.x;
            float out[8];
#pragma unroll
            for (int j = 0; j < 8; j++) out[j] = __shfl_sync(0xffffffff, mine, codes[i] >> (j / 2 * 8 + (j % 2 ? 0 : 4)) & 15) * scale[i];
            if (run >= runs) continue;
            if constexpr (sizeof(T) == 2) {
                store(to + run * 8, out);
            } else {
                const float low[4] = {out[0], out[1], out[2], out[3]}, high[4] = {out[4], out[5], out[6], out[7]};
                store(to + run * 8, low);
                store(to + run * 8 + 4, high);
            }
        }
    }
    // What is no whole run.
    const size_t left = runs * 8 + threadIdx.x;
    if (blockIdx.x == 0 && left < len) to[left] = from_float<T>(values[packed[left / 2] >> (left % 2 ? 0 : 4) & 15] * scales.of(left / 64));
}

// to = code · (scale of its row · 1/127), two roundings.
template <typename T, int N>
__device__ void int8(size_t rows, int columns, const int8_t* codes, const float* scales, T* to) {
    const size_t runs = rows * columns / N, threads = (size_t)gridDim.x * blockDim.x;
    for (size_t run = blockIdx.x * (size_t)blockDim.x + threadIdx.x; run < runs; run += threads) {
        const size_t first = run * N;
        const float factor = __fmul_rn(scales[first / columns], 1.0f / 127.0f);
        const Pack<int8_t, N> pack = *reinterpret_cast<const Pack<int8_t, N>*>(codes + first);
        float out[N];
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = (float)pack.v[i] * factor;
        store(to + first, out);
    }
}

#define DEFINE(name, T)                                                                                                              \
    extern "C" __global__ void dequantize_nf4_##name(                                                                                \
        size_t len, const uint8_t* packed, BlockScales scales, const float* values, T* to) {                                         \
        nf4<T>(len, packed, scales, values, to);                                                                                     \
    }                                                                                                                                \
    extern "C" __global__ void dequantize_int8_##name(size_t rows, int columns, const int8_t* codes, const float* scales, T* to) {   \
        if (columns % WIDE<T> == 0)                                                                                                  \
            int8<T, WIDE<T>>(rows, columns, codes, scales, to);                                                                      \
        else                                                                                                                         \
            int8<T, 1>(rows, columns, codes, scales, to);                                                                            \
    }
FOR_EACH_TYPE(DEFINE)
