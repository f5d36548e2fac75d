// Dropout whose mask is drawn from a counter and never stored.
#include "common.cuh"
#include "philox.cuh"

// Laid out as the launcher's.
struct DropoutMask {
    uint32_t key[2];
    uint32_t stream[3];
    // Words below it drop their numbers.
    uint32_t threshold;
    // 1 / (1 − p)
    float scale;
};

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
