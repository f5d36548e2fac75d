// Dropout whose mask is drawn from a counter and never stored.
#include "common.cuh"

// Laid out as the launcher's.
struct DropoutMask {
    uint32_t key[2];
    uint32_t stream[3];
    // Words below it drop their numbers.
    uint32_t threshold;
    // 1 / (1 − p)
    float scale;
};

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011); core/src/philox.rs is the same.
__device__ __forceinline__ void philox4x32_10(uint32_t (&c)[4], uint32_t key0, uint32_t key1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t low0 = 0xd2511f53u * c[0], high0 = __umulhi(0xd2511f53u, c[0]);
        const uint32_t low1 = 0xcd9e8d57u * c[2], high1 = __umulhi(0xcd9e8d57u, c[2]);
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = low0;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
}

// out = x ∘ mask / (1 − p), or that added to out. A thread takes a counter at a time, which draws for four numbers.
template <typename T, bool ACCUMULATE> __device__ void dropout(const DropoutMask& mask, size_t len, const T* x, T* out) {
    const bool aligned = ((uintptr_t)x | (uintptr_t)out) % sizeof(Pack<T, 4>) == 0;
    const size_t thread = blockIdx.x * (size_t)blockDim.x + threadIdx.x, threads = (size_t)gridDim.x * blockDim.x;
    for (size_t block = thread; block * 4 < len; block += threads) {
        uint32_t words[4] = {(uint32_t)block, mask.stream[0], mask.stream[1], mask.stream[2]};
        philox4x32_10(words, mask.key[0], mask.key[1]);
        const size_t first = block * 4;
        if (aligned && first + 4 <= len) {
            float a[4], sum[4] = {};
            load(x + first, a);
            if (ACCUMULATE) load(out + first, sum);
#pragma unroll
            for (int i = 0; i < 4; i++) sum[i] += words[i] >= mask.threshold ? a[i] * mask.scale : 0.0f;
            store(out + first, sum);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (first + i >= len) break;
                const float value = words[i] >= mask.threshold ? to_float(x[first + i]) * mask.scale : 0.0f;
                out[first + i] = from_float<T>(ACCUMULATE ? to_float(out[first + i]) + value : value);
            }
        }
    }
}

#define DEFINE(name, T)                                                                                                        \
    extern "C" __global__ void dropout_##name(DropoutMask mask, size_t len, const T* x, T* out) {                              \
        dropout<T, false>(mask, len, x, out);                                                                                  \
    }                                                                                                                          \
    extern "C" __global__ void dropout_add_##name(DropoutMask mask, size_t len, const T* x, T* out) {                          \
        dropout<T, true>(mask, len, x, out);                                                                                   \
    }
FOR_EACH_TYPE(DEFINE)
