// Causal attention over packed sequences on ordinary cores: any head size up to 128, exact in f32. Scores exist a tile at a time only.
//
// Rows are tokens: queries [rows, heads, head_dim], keys and values [rows, key_value_heads, head_dim]. Sequence s is the rows
// borders[s]..borders[s + 1]. Online softmax after M. Milakov and N. Gimelshein (2018); the backward pass recomputes the probabilities from
// the saved ln Σ exp (T. Dao et al., FlashAttention, 2022), keys and queries in two kernels, so that no sum depends on scheduling. Tiles that
// the window hides are left out.
#include "attention.cuh"

// Rows of a tile of queries and of keys, and threads of a block: 16 × 16, each with 2 × 2 of the scores.
constexpr int TILE = 32, SIDE = 16, THREADS = SIDE * SIDE, EACH = TILE / SIDE;
// Numbers between the rows of a tile in shared memory; one more than the head size spreads rows over the banks.
__device__ __forceinline__ int pitch(int head_dim) { return head_dim + 1; }

// Copies up to TILE rows of one head into shared memory; the rows beyond `count` become zero.
template <typename T>
__device__ void load_tile(const T* from, size_t row_stride, int count, int head_dim, float* to) {
    for (int i = threadIdx.x; i < TILE * head_dim; i += THREADS) {
        const int row = i / head_dim, column = i % head_dim;
        to[row * pitch(head_dim) + column] = row < count ? to_float(from[row * row_stride + column]) : 0.0f;
    }
}

// scores[i][j] = a[row i] · b[row j] for this thread's rows and columns, which are SIDE apart.
__device__ __forceinline__ void dot_rows(const float* a, const float* b, int head_dim, float (&scores)[EACH][EACH]) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE, stride = pitch(head_dim);
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) scores[i][j] = 0.0f;
    for (int k = 0; k < head_dim; k++) {
        float left[EACH], right[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) left[i] = a[(y + i * SIDE) * stride + k];
#pragma unroll
        for (int j = 0; j < EACH; j++) right[j] = b[(x + j * SIDE) * stride + k];
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH; j++) scores[i][j] += left[i] * right[j];
    }
}

__device__ __forceinline__ void keep_scores(const float (&scores)[EACH][EACH], float* to) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) to[(y + i * SIDE) * (TILE + 1) + x + j * SIDE] = scores[i][j];
}

// sums[i][c] += Σ_k w(i, k) · b[k][c], for this thread's rows (SIDE apart) and columns (SIDE apart, up to COLUMNS of them).
// TRANSPOSED: w(i, k) is weights[k][i].
template <int COLUMNS, bool TRANSPOSED>
__device__ __forceinline__ void add_product(const float* weights, const float* b, int head_dim, float (&sums)[EACH][COLUMNS]) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE, stride = pitch(head_dim);
    for (int k = 0; k < TILE; k++) {
        float left[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++)
            left[i] = TRANSPOSED ? weights[k * (TILE + 1) + y + i * SIDE] : weights[(y + i * SIDE) * (TILE + 1) + k];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int column = x + c * SIDE;
            const float right = column < head_dim ? b[k * stride + column] : 0.0f;
#pragma unroll
            for (int i = 0; i < EACH; i++) sums[i][c] += left[i] * right;
        }
    }
}

// Writes this thread's rows and columns of a tile.
template <typename T, int COLUMNS>
__device__ __forceinline__ void write_tile(const float (&sums)[EACH][COLUMNS], T* to, size_t row_stride, int count, int head_dim) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int row = y + i * SIDE, column = x + c * SIDE;
            if (row < count && column < head_dim) to[row * row_stride + column] = from_float<T>(sums[i][c]);
        }
}

// Sum or maximum over the SIDE threads of a row of threads.
template <bool SUM> __device__ __forceinline__ float over_row(float x) {
#pragma unroll
    for (int offset = SIDE / 2; offset > 0; offset /= 2) {
        const float other = __shfl_xor_sync(0xffffffff, x, offset);
        x = SUM ? x + other : fmaxf(x, other);
    }
    return x;
}

// Grid: tiles of queries (the last first: they take longest), heads, sequences.
template <typename T, int COLUMNS>
__device__ void forward(Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, T* output, float* log_sum_exp) {
    extern __shared__ float shared[];
    const int head_dim = shape.head_dim, tile = TILE * pitch(head_dim);
    float *q = shared, *k = q + tile, *v = k + tile, *weights = v + tile;
    const int first = borders[blockIdx.z], len = borders[blockIdx.z + 1] - first;
    const int begin = (gridDim.x - 1 - blockIdx.x) * TILE;
    if (begin >= len) return;
    const int head = blockIdx.y, source = head / (shape.heads / shape.key_value_heads);
    const size_t wide = (size_t)shape.heads * head_dim, narrow = (size_t)shape.key_value_heads * head_dim;
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    load_tile(query + (first + begin) * wide + head * head_dim, wide, len - begin, head_dim, q);
    const float slope = shape.slope(head);
    float sums[EACH][COLUMNS] = {}, largest[EACH], total[EACH];
    for (int i = 0; i < EACH; i++) largest[i] = -INFINITY, total[i] = 0.0f;
    for (int from = shape.first_seen(begin) / TILE * TILE; from < begin + TILE && from < len; from += TILE) {
        __syncthreads();
        load_tile(key + (first + from) * narrow + source * head_dim, narrow, len - from, head_dim, k);
        load_tile(value + (first + from) * narrow + source * head_dim, narrow, len - from, head_dim, v);
        __syncthreads();
        float scores[EACH][EACH];
        dot_rows(q, k, head_dim, scores);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int row = begin + y + i * SIDE;
            float here = -INFINITY;
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                const int column = from + x + j * SIDE;
                scores[i][j] = shape.sees(row, column) && column < len ? scores[i][j] * shape.scale + slope * (float)(column - row) : -INFINITY;
                here = fmaxf(here, scores[i][j]);
            }
            const float top = fmaxf(largest[i], over_row<false>(here));
            // A row may see nothing of its first tile; −∞ − −∞ would be no number.
            const float shift = top == -INFINITY ? 0.0f : top;
            const float keep = expf(largest[i] - shift);
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                scores[i][j] = expf(scores[i][j] - shift);
                sum += scores[i][j];
            }
            total[i] = total[i] * keep + over_row<true>(sum);
            largest[i] = top;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) sums[i][c] *= keep;
        }
        keep_scores(scores, weights);
        __syncthreads();
        add_product<COLUMNS, false>(weights, v, head_dim, sums);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) sums[i][c] /= total[i];
        const int row = begin + y + i * SIDE;
        if (x == 0 && row < len) log_sum_exp[(size_t)(first + row) * shape.heads + head] = largest[i] + logf(total[i]);
    }
    write_tile(sums, output + (first + begin) * wide + head * head_dim, wide, len - begin, head_dim);
}

// pull [rows, heads] = Σ output · output_grad over each head: one warp each.
template <typename T>
__device__ void pull(size_t count, int head_dim, const T* output, const T* output_grad, float* out) {
    const size_t head = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / 32;
    if (head >= count) return;
    float sum = 0.0f;
    for (int i = threadIdx.x % 32; i < head_dim; i += 32)
        sum += to_float(output[head * head_dim + i]) * to_float(output_grad[head * head_dim + i]);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) out[head] = sum;
}

// The probabilities of a tile and the gradient of its scores, from tiles in shared memory.
__device__ __forceinline__ void score_gradient(
    Shape shape, const float* q, const float* k, const float* v, const float* grad, int begin, int from, int len,
    float slope, const float* log_sum_exp, const float* pulls, float (&probabilities)[EACH][EACH], float (&scores_grad)[EACH][EACH]) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    dot_rows(q, k, shape.head_dim, probabilities);
    dot_rows(grad, v, shape.head_dim, scores_grad);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int row = begin + y + i * SIDE;
        const float shift = row < len ? log_sum_exp[(size_t)row * shape.heads] : 0.0f;
        const float pull = row < len ? pulls[(size_t)row * shape.heads] : 0.0f;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int column = from + x + j * SIDE;
            const bool seen = shape.sees(row, column) && row < len;
            const float score = probabilities[i][j] * shape.scale + slope * (float)(column - row);
            probabilities[i][j] = seen ? expf(score - shift) : 0.0f;
            scores_grad[i][j] = probabilities[i][j] * (scores_grad[i][j] - pull) * shape.scale;
        }
    }
}

// Grid: tiles of queries, heads, sequences.
template <typename T, int COLUMNS>
__device__ void query_gradient(
    Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, const T* output_grad, const float* log_sum_exp,
    const float* pulls, T* query_grad) {
    extern __shared__ float shared[];
    const int head_dim = shape.head_dim, tile = TILE * pitch(head_dim);
    float *q = shared, *grad = q + tile, *k = grad + tile, *v = k + tile, *weights = v + tile;
    const int first = borders[blockIdx.z], len = borders[blockIdx.z + 1] - first;
    const int begin = (gridDim.x - 1 - blockIdx.x) * TILE;
    if (begin >= len) return;
    const int head = blockIdx.y, source = head / (shape.heads / shape.key_value_heads);
    const size_t wide = (size_t)shape.heads * head_dim, narrow = (size_t)shape.key_value_heads * head_dim;
    const size_t place = (first + begin) * wide + head * head_dim, sums_place = (size_t)first * shape.heads + head;
    load_tile(query + place, wide, len - begin, head_dim, q);
    load_tile(output_grad + place, wide, len - begin, head_dim, grad);
    const float slope = shape.slope(head);
    float sums[EACH][COLUMNS] = {};
    for (int from = shape.first_seen(begin) / TILE * TILE; from < begin + TILE && from < len; from += TILE) {
        __syncthreads();
        load_tile(key + (first + from) * narrow + source * head_dim, narrow, len - from, head_dim, k);
        load_tile(value + (first + from) * narrow + source * head_dim, narrow, len - from, head_dim, v);
        __syncthreads();
        float probabilities[EACH][EACH], scores_grad[EACH][EACH];
        score_gradient(
            shape, q, k, v, grad, begin, from, len, slope, log_sum_exp + sums_place, pulls + sums_place, probabilities, scores_grad);
        keep_scores(scores_grad, weights);
        __syncthreads();
        add_product<COLUMNS, false>(weights, k, head_dim, sums);
    }
    write_tile(sums, query_grad + place, wide, len - begin, head_dim);
}

// Grid: tiles of keys (the first are seen by the most queries), key/value heads, sequences.
template <typename T, int COLUMNS>
__device__ void key_value_gradient(
    Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, const T* output_grad, const float* log_sum_exp,
    const float* pulls, T* key_grad, T* value_grad) {
    extern __shared__ float shared[];
    const int head_dim = shape.head_dim, tile = TILE * pitch(head_dim);
    float *k = shared, *v = k + tile, *q = v + tile, *grad = q + tile, *weights = grad + tile, *weights_grad = weights + TILE * (TILE + 1);
    const int first = borders[blockIdx.z], len = borders[blockIdx.z + 1] - first;
    const int from = blockIdx.x * TILE;
    if (from >= len) return;
    const int group = shape.heads / shape.key_value_heads;
    const size_t wide = (size_t)shape.heads * head_dim, narrow = (size_t)shape.key_value_heads * head_dim;
    const size_t place = (first + from) * narrow + blockIdx.y * head_dim;
    load_tile(key + place, narrow, len - from, head_dim, k);
    load_tile(value + place, narrow, len - from, head_dim, v);
    float key_sums[EACH][COLUMNS] = {}, value_sums[EACH][COLUMNS] = {};
    for (int head = blockIdx.y * group; head < (blockIdx.y + 1) * group; head++) {
        const size_t sums_place = (size_t)first * shape.heads + head;
        const float slope = shape.slope(head);
        // As long as the tile's first query sees the last of these keys.
        for (int begin = from; begin < len && begin - (from + TILE - 1) < shape.window; begin += TILE) {
            const size_t query_place = (first + begin) * wide + head * head_dim;
            __syncthreads();
            load_tile(query + query_place, wide, len - begin, head_dim, q);
            load_tile(output_grad + query_place, wide, len - begin, head_dim, grad);
            __syncthreads();
            float probabilities[EACH][EACH], scores_grad[EACH][EACH];
            score_gradient(
                shape, q, k, v, grad, begin, from, len, slope, log_sum_exp + sums_place, pulls + sums_place, probabilities, scores_grad);
            keep_scores(probabilities, weights);
            keep_scores(scores_grad, weights_grad);
            __syncthreads();
            add_product<COLUMNS, true>(weights, grad, head_dim, value_sums);
            add_product<COLUMNS, true>(weights_grad, q, head_dim, key_sums);
        }
    }
    write_tile(key_sums, key_grad + place, narrow, len - from, head_dim);
    write_tile(value_sums, value_grad + place, narrow, len - from, head_dim);
}

// COLUMNS · SIDE is the largest head size of an instance.
#define DEFINE_SIZE(name, T, size, COLUMNS)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_##size##_##name(                                                 \
        Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, T* output, float* log_sum_exp) {         \
        forward<T, COLUMNS>(shape, borders, query, key, value, output, log_sum_exp);                                                 \
    }                                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_query_gradient_##size##_##name(                                  \
        Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, const T* output_grad,                    \
        const float* log_sum_exp, const float* pulls, T* query_grad) {                                                               \
        query_gradient<T, COLUMNS>(shape, borders, query, key, value, output_grad, log_sum_exp, pulls, query_grad);                  \
    }                                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_key_value_gradient_##size##_##name(                              \
        Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, const T* output_grad,                    \
        const float* log_sum_exp, const float* pulls, T* key_grad, T* value_grad) {                                                  \
        key_value_gradient<T, COLUMNS>(                                                                                              \
            shape, borders, query, key, value, output_grad, log_sum_exp, pulls, key_grad, value_grad);                               \
    }
#define DEFINE(name, T)                                                                                                              \
    DEFINE_SIZE(name, T, 64, 4)                                                                                                      \
    DEFINE_SIZE(name, T, 128, 8)                                                                                                     \
    extern "C" __global__ void attention_pull_##name(                                                                                \
        size_t count, int head_dim, const T* output, const T* output_grad, float* out) {                                             \
        pull<T>(count, head_dim, output, output_grad, out);                                                                          \
    }
FOR_EACH_TYPE(DEFINE)

// What cuDNN is told of packed sequences, from their borders: rows of each, and where in each array they begin. `count` borders.
extern "C" __global__ void attention_offsets(
    int count, int query_width, int key_width, int sum_width, const uint32_t* borders, int* lengths, int* query_offsets, int* key_offsets,
    int* sum_offsets) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    const int first = borders[index];
    if (index + 1 < count) lengths[index] = borders[index + 1] - first;
    query_offsets[index] = first * query_width;
    key_offsets[index] = first * key_width;
    sum_offsets[index] = first * sum_width;
}
