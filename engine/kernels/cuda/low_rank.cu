// Low-rank halves of linear layers on tensor cores, for 16-bit numbers and ranks up to 32. Products with so few columns are bound by memory:
// each kernel here reads or writes its large operand once.
#include "tensor_cores.cuh"

// sums += left [16, 8] · right [8, 8]; a thread holds what it holds of the larger product in tensor_cores.cuh.
template <typename T> __device__ __forceinline__ void multiply_short(float (&sums)[4], const uint32_t (&left)[2], uint32_t right);
template <>
__device__ __forceinline__ void multiply_short<__nv_bfloat16>(float (&sums)[4], const uint32_t (&left)[2], uint32_t right) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(left[0]), "r"(left[1]), "r"(right));
}
template <> __device__ __forceinline__ void multiply_short<__half>(float (&sums)[4], const uint32_t (&left)[2], uint32_t right) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(left[0]), "r"(left[1]), "r"(right));
}

// Two numbers `stride` apart, or zeros from `count` on.
template <typename T> __device__ __forceinline__ uint32_t pair(const T* from, size_t stride, int count) {
    Pack<T, 2> numbers;
    numbers.v[0] = count > 0 ? from[0] : from_float<T>(0.0f);
    numbers.v[1] = count > 1 ? from[stride] : from_float<T>(0.0f);
    return *reinterpret_cast<uint32_t*>(&numbers);
}

// Warps of a block, columns of a warp, and rows of a block of `expand`.
constexpr int EXPAND_WARPS = 4, EXPAND_COLUMNS = 64, EXPAND_ROWS = 32;

struct Expansion {
    int rows, columns, rank;
    // Between rows of `left`; between rows and columns of `right`.
    int left_stride, right_row_stride, right_column_stride;
};

// out [rows, columns] = start + left [rows, rank] · right [rank, columns]; without `start`, from zero. rank is at most 8 · STEPS, columns a
// multiple of 8. A warp keeps its columns of `right` in registers and goes down the rows.
template <typename T, int STEPS>
__device__ void expand(const Expansion& sizes, const T* left, const T* right, const T* start, T* out) {
    // Tiles of 8 columns; four of them share 32 columns so that a thread's sums are 8 neighbours: column c of tile i is column
    // c / 2 · 8 + 2 · i + c % 2 of the 32.
    constexpr int GROUPS = EXPAND_COLUMNS / 32;
    const int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
    const int first = (blockIdx.x * EXPAND_WARPS + threadIdx.x / 32) * EXPAND_COLUMNS;
    if (first >= sizes.columns) return;
    uint32_t b[GROUPS][4][STEPS];
#pragma unroll
    for (int q = 0; q < GROUPS; q++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                const int column = first + q * 32 + group / 2 * 8 + 2 * i + group % 2, k = s * 8 + 2 * quad;
                const T* from = right + (size_t)k * sizes.right_row_stride + (size_t)column * sizes.right_column_stride;
                b[q][i][s] = pair(from, sizes.right_row_stride, column < sizes.columns ? sizes.rank - k : 0);
            }
    const int last = min(sizes.rows, (int)(blockIdx.y + 1) * EXPAND_ROWS);
    for (int row = blockIdx.y * EXPAND_ROWS + group; row - group < last; row += 16) {
        uint32_t a[STEPS][2];
#pragma unroll
        for (int s = 0; s < STEPS; s++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int at = row + half * 8, k = s * 8 + 2 * quad;
                a[s][half] = pair(left + (size_t)at * sizes.left_stride + k, 1, at < last ? sizes.rank - k : 0);
            }
#pragma unroll
        for (int q = 0; q < GROUPS; q++) {
            const int column = first + q * 32 + quad * 8;
            if (first + q * 32 >= sizes.columns) break;
            float sums[4][4] = {};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int s = 0; s < STEPS; s++) multiply_short<T>(sums[i], a[s], b[q][i][s]);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int at = row + half * 8;
                if (at >= last || column >= sizes.columns) continue;
                const size_t place = (size_t)at * sizes.columns + column;
                float result[8] = {};
                if (start) load(start + place, result);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    result[2 * i] += sums[i][2 * half];
                    result[2 * i + 1] += sums[i][2 * half + 1];
                }
                store(out + place, result);
            }
        }
    }
}

// Tiles of 64 rows and 64 columns of a gradient; a block takes so many columns of them.
constexpr int TILE_COLUMNS = 64, COLUMN_TILES = 4, BLOCK_COLUMNS = TILE_COLUMNS * COLUMN_TILES, STAGES = 3;
// Behind each run of numbers along rows or columns, so that runs begin in different banks.
constexpr int PAD = 8;

// One layer of those that share an input. Laid out as in src/low_rank.rs.
struct Layer {
    // [rows, out_features], and B [out_features, rank].
    const void *output_grad, *b;
    // Gradient of B, added to.
    float* b_grad;
    // Sums over the columns of a block [blocks of columns, rows, width], and over its rows [blocks of rows, out_features, width], where width
    // is the rank rounded up to the kernel's.
    float *of_columns, *of_rows;
    int out_features;
    // First column in `hidden` and in `hidden_grad`.
    int hidden_column, grad_column;
};

struct Gradients {
    Layer layers[3];
    // [rows, ..], scaled products of the input with A, and where their gradients go.
    const void* hidden;
    void* hidden_grad;
    int hidden_stride, grad_stride;
    int rows, rank;
    float scale;
};

// of_columns = g · B and of_rows = gᵀ · h for a block's rows and columns of g, which is read once. rank is at most 8 · N; a block has
// 64 · ROW_TILES rows.
template <typename T, int N, int ROW_TILES> __device__ void gradients(const Gradients& all) {
    constexpr int WIDTH = 8 * N, ROWS = TILE_ROWS * ROW_TILES;
    using GradTile = Tile<T, TILE_COLUMNS>;
    extern __shared__ __align__(128) unsigned char shared[];
    T* tiles = reinterpret_cast<T*>(shared);
    // h and B, transposed: [WIDTH, ROWS + PAD], [WIDTH, BLOCK_COLUMNS + PAD].
    T* hidden = tiles + STAGES * GradTile::NUMBERS;
    T* b = hidden + WIDTH * (ROWS + PAD);
    const Layer& layer = all.layers[blockIdx.z];
    const int first_column = blockIdx.x * BLOCK_COLUMNS, first_row = blockIdx.y * ROWS;
    if (first_column >= layer.out_features) return;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
    const T* grad = static_cast<const T*>(layer.output_grad);
    const int column_tiles = min(COLUMN_TILES, (layer.out_features - first_column + TILE_COLUMNS - 1) / TILE_COLUMNS);
    const int count = column_tiles * ROW_TILES;

    // Tile i: row tiles first, so that sums over rows end with each tile of columns.
    auto fetch = [&](int i) {
        if (i < count) {
            const int row = first_row + i % ROW_TILES * TILE_ROWS, column = first_column + i / ROW_TILES * TILE_COLUMNS;
            GradTile{tiles + i % STAGES * GradTile::NUMBERS}.copy_part(
                grad + (size_t)row * layer.out_features + column, layer.out_features, all.rows - row, layer.out_features - column);
        }
        commit_copies();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) fetch(i);
    for (int i = threadIdx.x; i < ROWS * WIDTH; i += BLOCK_THREADS) {
        const int row = i / WIDTH, j = i % WIDTH;
        const bool there = first_row + row < all.rows && j < all.rank;
        const T* from = static_cast<const T*>(all.hidden) + (size_t)(first_row + row) * all.hidden_stride + layer.hidden_column + j;
        hidden[j * (ROWS + PAD) + row] = there ? *from : from_float<T>(0.0f);
    }
    for (int i = threadIdx.x; i < BLOCK_COLUMNS * WIDTH; i += BLOCK_THREADS) {
        const int column = i / WIDTH, j = i % WIDTH;
        const bool there = first_column + column < layer.out_features && j < all.rank;
        const T* from = static_cast<const T*>(layer.b) + (size_t)(first_column + column) * all.rank + j;
        b[j * (BLOCK_COLUMNS + PAD) + column] = there ? *from : from_float<T>(0.0f);
    }

    // Two neighbours of a transposed operand from `k` on, of the thread's column.
    auto right = [&](const T* from, int stride, int n, int k) {
        return *reinterpret_cast<const uint32_t*>(from + (n * 8 + group) * stride + k + 2 * quad);
    };
    float of_columns[ROW_TILES][N][4] = {};
    for (int c = 0; c < column_tiles; c++) {
        float of_rows[N][4] = {};
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
            const int i = c * ROW_TILES + r;
            wait_for_copies<STAGES - 2>();
            __syncthreads();
            fetch(i + STAGES - 1);
            const GradTile tile{tiles + i % STAGES * GradTile::NUMBERS};
#pragma unroll
            for (int k = 0; k < TILE_COLUMNS; k += 16) {
                uint32_t a[4];
                tile.left(warp * 16, k, a);
#pragma unroll
                for (int n = 0; n < N; n++) {
                    const int at = c * TILE_COLUMNS + k;
                    multiply<T>(of_columns[r][n], a, right(b, BLOCK_COLUMNS + PAD, n, at), right(b, BLOCK_COLUMNS + PAD, n, at + 8));
                }
            }
#pragma unroll
            for (int k = 0; k < TILE_ROWS; k += 16) {
                uint32_t a[4];
                tile.left_transposed(k, warp * 16, a);
#pragma unroll
                for (int n = 0; n < N; n++) {
                    const int at = r * TILE_ROWS + k;
                    multiply<T>(of_rows[n], a, right(hidden, ROWS + PAD, n, at), right(hidden, ROWS + PAD, n, at + 8));
                }
            }
        }
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int column = first_column + c * TILE_COLUMNS + warp * 16 + half * 8 + group;
                if (column >= layer.out_features) continue;
                const size_t place = ((size_t)blockIdx.y * layer.out_features + column) * WIDTH + n * 8 + 2 * quad;
                *reinterpret_cast<float2*>(layer.of_rows + place) = make_float2(of_rows[n][2 * half], of_rows[n][2 * half + 1]);
            }
    }
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = first_row + r * TILE_ROWS + warp * 16 + half * 8 + group;
                if (row >= all.rows) continue;
                const size_t place = ((size_t)blockIdx.x * all.rows + row) * WIDTH + n * 8 + 2 * quad;
                const float* sums = of_columns[r][n] + 2 * half;
                *reinterpret_cast<float2*>(layer.of_columns + place) = make_float2(sums[0], sums[1]);
            }
}

// Adds up the blocks' sums, always in the same order: hidden_grad = scale · Σ of_columns, b_grad += Σ of_rows.
template <typename T> __device__ void gather(const Gradients& all, int width, int block_rows) {
    const Layer& layer = all.layers[blockIdx.z];
    const int row_blocks = (all.rows + block_rows - 1) / block_rows;
    const int column_blocks = (layer.out_features + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    const size_t of_columns = (size_t)all.rows * width, of_rows = (size_t)layer.out_features * width;
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < of_columns) {
        const int row = i / width, j = i % width;
        if (j >= all.rank) return;
        float sum = 0.0f;
#pragma unroll 8
        for (int block = 0; block < column_blocks; block++) sum += layer.of_columns[block * of_columns + i];
        T* to = static_cast<T*>(all.hidden_grad) + (size_t)row * all.grad_stride + layer.grad_column + j;
        *to = from_float<T>(sum * all.scale);
    } else if (i - of_columns < of_rows) {
        const size_t at = i - of_columns, column = at / width;
        const int j = at % width;
        if (j >= all.rank) return;
        float sum = 0.0f;
#pragma unroll 8
        for (int block = 0; block < row_blocks; block++) sum += layer.of_rows[block * of_rows + at];
        layer.b_grad[column * all.rank + j] += sum;
    }
}

#define DEFINE_WIDTH(name, T, STEPS, ROW_TILES)                                                                                          \
    extern "C" __global__ void __launch_bounds__(32 * EXPAND_WARPS)                                                                      \
        low_rank_expand_##STEPS##_##name(Expansion sizes, const T* left, const T* right, const T* start, T* out) {                       \
        expand<T, STEPS>(sizes, left, right, start, out);                                                                                \
    }                                                                                                                                    \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS) low_rank_gradients_##STEPS##_##name(__grid_constant__ const Gradients all) { \
        gradients<T, STEPS, ROW_TILES>(all);                                                                                             \
    }
#define DEFINE(name, T)                                                                                                         \
    DEFINE_WIDTH(name, T, 1, 4)                                                                                                 \
    DEFINE_WIDTH(name, T, 2, 4)                                                                                                 \
    DEFINE_WIDTH(name, T, 4, 2)                                                                                                 \
    extern "C" __global__ void low_rank_gather_##name(__grid_constant__ const Gradients all, int width, int block_rows) {       \
        gather<T>(all, width, block_rows);                                                                                      \
    }
DEFINE(f16, __half)
DEFINE(bf16, __nv_bfloat16)
