// Tiles in shared memory and products of 16 × 8 × 16 on tensor cores, for 16-bit numbers.
#pragma once
#include "common.cuh"

// Rows of a tile; threads of a block: four warps, each with 16 of the tile's rows.
constexpr int TILE_ROWS = 64, WARPS = 4, BLOCK_THREADS = 32 * WARPS;

// A tile of TILE_ROWS rows of D numbers. Runs of 16 bytes are permuted within a row by its number, so that eight rows of one column lie in
// eight different groups of banks, which is what a matrix load reads at once.
template <typename T, int D> struct Tile {
    T* start;

    static constexpr int NUMBERS = TILE_ROWS * D;

    __device__ __forceinline__ uint32_t address(int row, int column) const {
        const int place = row * D + ((column / 8) ^ (row & 7)) * 8;
        return (uint32_t)__cvta_generic_to_shared(start + place);
    }

    // Starts copying `count` rows from global memory; the others become zero.
    __device__ __forceinline__ void copy(const T* from, size_t row_stride, int count) const { copy_part(from, row_stride, count, D); }

    // As `copy`, where columns from `width` on, a multiple of 8, become zero, too.
    __device__ __forceinline__ void copy_part(const T* from, size_t row_stride, int count, int width) const {
        constexpr int RUNS = D / 8;
#pragma unroll
        for (int i = 0; i < TILE_ROWS * RUNS / BLOCK_THREADS; i++) {
            const int run = i * BLOCK_THREADS + threadIdx.x, row = run / RUNS, column = run % RUNS * 8;
            const bool there = row < count && column < width;
            const T* source = from + (there ? row * row_stride + column : 0);
            const int bytes = there ? 16 : 0;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(row, column)), "l"(source), "r"(bytes));
        }
    }

    // The left operand of a product: 16 rows from `row` on, 16 columns from `column` on.
    __device__ __forceinline__ void left(int row, int column, uint32_t (&to)[4]) const {
        const int lane = threadIdx.x % 32;
        const uint32_t at = address(row + lane % 16, column + lane / 16 * 8);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at));
    }

    // The left operand of a product with the tile's transpose: its columns column..column + 16 are the product's rows.
    __device__ __forceinline__ void left_transposed(int row, int column, uint32_t (&to)[4]) const {
        const int lane = threadIdx.x % 32;
        const uint32_t at = address(row + lane % 8 + lane / 16 * 8, column + lane / 8 % 2 * 8);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at));
    }

    // Two right operands, whose columns are the tile's rows row..row + 8 and row + 8..row + 16: the product is with the tile's transpose.
    __device__ __forceinline__ void right_by_rows(int row, int column, uint32_t (&to)[4]) const {
        const int lane = threadIdx.x % 32;
        const uint32_t at = address(row + lane % 8 + lane / 16 * 8, column + lane / 8 % 2 * 8);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at));
    }

    // Two right operands, whose columns are the tile's: rows row..row + 16, columns column..column + 8 and column + 8..column + 16.
    __device__ __forceinline__ void right(int row, int column, uint32_t (&to)[4]) const {
        const int lane = threadIdx.x % 32;
        const uint32_t at = address(row + lane % 16, column + lane / 16 * 8);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at));
    }
};

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int LEFT> __device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT)); }

// sums += left · right. A thread holds, of 16 × 8 sums, the rows lane / 4 and lane / 4 + 8, columns lane % 4 · 2 and the next.
template <typename T> __device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&left)[4], uint32_t right0, uint32_t right1);
template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(float (&sums)[4], const uint32_t (&left)[4], uint32_t right0, uint32_t right1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}
template <>
__device__ __forceinline__ void multiply<__half>(float (&sums)[4], const uint32_t (&left)[4], uint32_t right0, uint32_t right1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

template <typename T> __device__ __forceinline__ uint32_t pack_pair(float a, float b) {
    Pack<T, 2> pair;
    pair.v[0] = from_float<T>(a);
    pair.v[1] = from_float<T>(b);
    return *reinterpret_cast<uint32_t*>(&pair);
}

// Sums of two neighbouring products of 16 × 8 as the left operand of the next product.
template <typename T> __device__ __forceinline__ void as_left(const float (&first)[4], const float (&second)[4], uint32_t (&to)[4]) {
    to[0] = pack_pair<T>(first[0], first[1]);
    to[1] = pack_pair<T>(first[2], first[3]);
    to[2] = pack_pair<T>(second[0], second[1]);
    to[3] = pack_pair<T>(second[2], second[3]);
}

// sums [16, 8 · N] += 16 rows of `left` from `row` on · the transpose of rows of `right` from `right_row` on.
template <typename T, int D, int N>
__device__ __forceinline__ void add_rows_by_rows(Tile<T, D> left, int row, Tile<T, D> right, int right_row, float (&sums)[N][4]) {
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t a[4];
        left.left(row, k, a);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b[4];
            right.right_by_rows(right_row + n * 8, k, b);
            multiply<T>(sums[n], a, b[0], b[1]);
            multiply<T>(sums[n + 1], a, b[2], b[3]);
        }
    }
}

// sums [16, D] += weights [16, 8 · N] · rows of `right` from `right_row` on.
template <typename T, int D, int N>
__device__ __forceinline__ void add_weighted(const float (&weights)[N][4], Tile<T, D> right, int right_row, float (&sums)[D / 8][4]) {
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        uint32_t a[4];
        as_left<T>(weights[k], weights[k + 1], a);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            right.right(right_row + k * 8, n * 8, b);
            multiply<T>(sums[n], a, b[0], b[1]);
            multiply<T>(sums[n + 1], a, b[2], b[3]);
        }
    }
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
