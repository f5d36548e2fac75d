// GGML's block types as plain numbers: a whole matrix, or the rows of it that are asked for.
#include "ggml.cuh"

// Eight numbers a thread, written in 16 bytes at once (f32: twice) where the address allows it. `numbers`: of the rows to take, each `row_runs` runs
// of eight; null: all rows in order.
template <typename Block, typename T>
__device__ void dequantize(size_t runs, const uint8_t* blocks, const uint32_t* numbers, size_t row_runs, T* to) {
    constexpr int BLOCK_RUNS = Block::NUMBERS / 8;
    const bool wide = (uintptr_t)to % 16 == 0;
    const size_t threads = (size_t)gridDim.x * blockDim.x;
    for (size_t run = blockIdx.x * (size_t)blockDim.x + threadIdx.x; run < runs; run += threads) {
        const size_t from = numbers ? numbers[run / row_runs] * row_runs + run % row_runs : run;
        float out[8];
        Block::numbers(blocks + from / BLOCK_RUNS * Block::BYTES, from % BLOCK_RUNS * 8, out);
        T* place = to + run * 8;
        if (!wide) {
#pragma unroll
            for (int i = 0; i < 8; i++) place[i] = from_float<T>(out[i]);
        } else if constexpr (sizeof(T) == 2) {
            store(place, out);
        } else {
            const float low[4] = {out[0], out[1], out[2], out[3]}, high[4] = {out[4], out[5], out[6], out[7]};
            store(place, low);
            store(place + 4, high);
        }
    }
}

#define DEFINE(name, Block, type_name, T)                                                                                            \
    extern "C" __global__ void dequantize_##name##_##type_name(                                                                      \
        size_t runs, const uint8_t* blocks, const uint32_t* numbers, size_t row_runs, T* to) {                                       \
        dequantize<Block, T>(runs, blocks, numbers, row_runs, to);                                                                   \
    }
#define DEFINE_EACH(name, Block)            \
    DEFINE(name, Block, f32, float)         \
    DEFINE(name, Block, f16, __half)        \
    DEFINE(name, Block, bf16, __nv_bfloat16)
FOR_EACH_BLOCK_TYPE(DEFINE_EACH)
