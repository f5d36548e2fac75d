// Attention of one sequence's new rows over the keys and values of all its positions: any head size up to 128, computed in f32.
//
// Queries and output [rows, heads, head_dim], keys and values [positions, key_value_heads, head_dim]. The new rows are the last positions:
// row i is position positions − rows + i and sees itself and those before it, of the window only. A block takes ROWS rows of one head, its
// warps share the positions, 32 at a time: first each lane scores a position, then the lanes have parts of the head each and add the values
// up. Every warp keeps an online softmax (M. Milakov and N. Gimelshein, 2018) of the positions it saw; they are joined at the end, in the
// order of the warps.
#include "attention.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, MOST_DIM = 128, EACH = MOST_DIM / 32;
constexpr unsigned ALL_LANES = 0xffffffff;

// The queries of a block, multiplied by the scale, and what its warps come to.
template <int ROWS> struct Shared {
    float q[ROWS][MOST_DIM], sums[WARPS][ROWS][MOST_DIM], tops[WARPS][ROWS], totals[WARPS][ROWS];
};

// N: numbers of a key that are read at once. Grid: runs of ROWS rows, heads.
template <typename T, int ROWS, int N>
__device__ void attend(
    Shape shape, int rows, int positions, const T* query, const T* key, const T* value, T* output, Shared<ROWS>& shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int head_dim = shape.head_dim, head = blockIdx.y, source = head / (shape.heads / shape.key_value_heads);
    const int first = blockIdx.x * ROWS, count = min(ROWS, rows - first);
    // Row i of this block is this position plus i.
    const int own = positions - rows + first;
    const size_t wide = (size_t)shape.heads * head_dim, narrow = (size_t)shape.key_value_heads * head_dim;
    const size_t place = first * wide + head * head_dim;
    const T* keys = key + source * head_dim;
    const T* values = value + source * head_dim;
    for (int i = threadIdx.x; i < ROWS * head_dim; i += THREADS) {
        const int row = i / head_dim, column = i % head_dim;
        shared.q[row][column] = row < count ? to_float(query[place + row * wide + column]) * shape.scale : 0.0f;
    }
    __syncthreads();
    const float slope = shape.slope(head);
    float top[ROWS], total[ROWS], sum[ROWS][EACH];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        top[i] = -INFINITY, total[i] = 0.0f;
#pragma unroll
        for (int e = 0; e < EACH; e++) sum[i][e] = 0.0f;
    }
    const int end = own + count;
    for (int from = shape.first_seen(own) + warp * 32; from < end; from += THREADS) {
        const int position = from + lane;
        float weights[ROWS] = {};
        if (position < end) {
            const T* k = keys + position * narrow;
            for (int column = 0; column < head_dim; column += N) {
                float part[N];
                load(k + column, part);
#pragma unroll
                for (int i = 0; i < ROWS; i++)
#pragma unroll
                    for (int j = 0; j < N; j++) weights[i] += part[j] * shared.q[i][column + j];
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const float score = i < count && shape.sees(own + i, position) ? weights[i] + slope * (float)(position - own - i) : -INFINITY;
            const float highest = fmaxf(top[i], warp_max(score));
            // A row that has seen nothing yet keeps its sums of zero; −∞ − −∞ would be no number.
            const float shift = highest == -INFINITY ? 0.0f : highest;
            const float keep = expf(top[i] - shift);
            weights[i] = expf(score - shift);
            total[i] = total[i] * keep + warp_sum(weights[i]);
            top[i] = highest;
#pragma unroll
            for (int e = 0; e < EACH; e++) sum[i][e] *= keep;
        }
        const int here = min(32, end - from);
#pragma unroll 4
        for (int j = 0; j < here; j++) {
            const T* v = values + (from + j) * narrow;
            float part[EACH];
#pragma unroll
            for (int e = 0; e < EACH; e++) part[e] = lane + e * 32 < head_dim ? to_float(v[lane + e * 32]) : 0.0f;
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const float weight = __shfl_sync(ALL_LANES, weights[i], j);
#pragma unroll
                for (int e = 0; e < EACH; e++) sum[i][e] += weight * part[e];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        if (lane == 0) shared.tops[warp][i] = top[i], shared.totals[warp][i] = total[i];
#pragma unroll
        for (int e = 0; e < EACH; e++) shared.sums[warp][i][lane + e * 32] = sum[i][e];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * head_dim; i += THREADS) {
        const int row = i / head_dim, column = i % head_dim;
        // Every row sees a position at least, so that one warp's is finite.
        float highest = -INFINITY, whole = 0.0f, result = 0.0f;
        for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, shared.tops[w][row]);
        for (int w = 0; w < WARPS; w++) {
            const float keep = expf(shared.tops[w][row] - highest);
            whole += shared.totals[w][row] * keep;
            result += shared.sums[w][row][column] * keep;
        }
        output[place + row * wide + column] = from_float<T>(result / whole);
    }
}

// Keys are read 16 bytes at a time where they are whole and aligned so.
template <typename T, int ROWS>
__device__ __forceinline__ void forward(Shape shape, int rows, int positions, const T* query, const T* key, const T* value, T* output) {
    // Of both ways together: shared memory of a function's own would be taken for each.
    __shared__ Shared<ROWS> shared;
    if (shape.head_dim % WIDE<T> == 0 && (uintptr_t)key % 16 == 0)
        attend<T, ROWS, WIDE<T>>(shape, rows, positions, query, key, value, output, shared);
    else
        attend<T, ROWS, 1>(shape, rows, positions, query, key, value, output, shared);
}

#define DEFINE_ROWS(name, T, ROWS)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) cached_attention_##ROWS##_##name(                                          \
        Shape shape, int rows, int positions, const T* query, const T* key, const T* value, T* output) {                             \
        forward<T, ROWS>(shape, rows, positions, query, key, value, output);                                                         \
    }
#define DEFINE(name, T)     \
    DEFINE_ROWS(name, T, 1) \
    DEFINE_ROWS(name, T, 8)
FOR_EACH_TYPE(DEFINE)
