// Causal attention over packed sequences on tensor cores, for 16-bit numbers and heads of 64 or 128; see attention.cu for the shapes.
//
// After T. Dao, FlashAttention-2 (2023), with the gradients of queries and of keys in two kernels: seven products instead of five, but no
// sum depends on scheduling.
#include "attention.cuh"
#include "tensor_cores.cuh"

constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

// Writes this warp's 16 rows of D numbers, those below `count`, multiplied by a factor of each row's half.
template <typename T, int D>
__device__ __forceinline__ void write_rows(const float (&sums)[D / 8][4], const float (&factors)[2], T* to, size_t row_stride, int count) {
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + half * 8;
        if (row >= count) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            const uint32_t pair = pack_pair<T>(sums[n][half * 2] * factors[half], sums[n][half * 2 + 1] * factors[half]);
            *reinterpret_cast<uint32_t*>(to + row * row_stride + n * 8 + lane % 4 * 2) = pair;
        }
    }
}

// Whether a query of the tile from `begin` on does not see a key of the tile from `from` on.
__device__ __forceinline__ bool partly_hidden(Shape shape, int begin, int from) {
    return from == begin || begin + TILE_ROWS - 1 - from >= shape.window;
}

// Adds ALiBi's share to scores whose rows are 16 queries from `row` on and whose columns are keys from `column` on.
__device__ __forceinline__ void add_bias(float slope, int row, int column, float (&scores)[TILE_ROWS / 8][4]) {
    const int lane = threadIdx.x % 32, distance = column + lane % 4 * 2 - row - lane / 4;
#pragma unroll
    for (int n = 0; n < TILE_ROWS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] += slope * (float)(distance + n * 8 + i % 2 - i / 2 * 8);
}

// Grid: tiles of queries (the last first), heads, sequences.
template <typename T, int D>
__device__ void forward(Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, T* output, float* log_sum_exp) {
    extern __shared__ __align__(128) unsigned char memory[];
    T* shared = reinterpret_cast<T*>(memory);
    constexpr int NUMBERS = Tile<T, D>::NUMBERS;
    const Tile<T, D> q{shared};
    const int first = borders[blockIdx.z], len = borders[blockIdx.z + 1] - first;
    const int begin = ((int)gridDim.x - 1 - (int)blockIdx.x) * TILE_ROWS;
    if (begin >= len) return;
    const int head = blockIdx.y, source = head / (shape.heads / shape.key_value_heads);
    const size_t wide = (size_t)shape.heads * D, narrow = (size_t)shape.key_value_heads * D;
    const T* keys = key + first * narrow + source * D;
    const T* values = value + first * narrow + source * D;
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    const float scale = shape.scale * LOG2_E;
    auto k = [&](int tile) { return Tile<T, D>{shared + NUMBERS * (1 + tile % 2 * 2)}; };
    auto v = [&](int tile) { return Tile<T, D>{shared + NUMBERS * (2 + tile % 2 * 2)}; };
    auto fetch = [&](int tile) {
        const int from = tile * TILE_ROWS;
        k(tile).copy(keys + from * narrow, narrow, len - from);
        v(tile).copy(values + from * narrow, narrow, len - from);
    };
    q.copy(query + (first + begin) * wide + head * D, wide, len - begin);
    const int start = shape.first_seen(begin) / TILE_ROWS, tiles = begin / TILE_ROWS + 1;
    fetch(start);
    commit_copies();
    // Of scores before they are scaled.
    const float slope = shape.slope(head) / shape.scale;
    float sums[D / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (int tile = start; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1);
        commit_copies();
        wait_for_copies<1>();
        __syncthreads();
        float scores[TILE_ROWS / 8][4] = {};
        add_rows_by_rows(q, warp_row, k(tile), 0, scores);
        if (slope > 0.0f) add_bias(slope, begin + warp_row, tile * TILE_ROWS, scores);
        if (partly_hidden(shape, begin, tile * TILE_ROWS)) {
#pragma unroll
            for (int n = 0; n < TILE_ROWS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int row = begin + warp_row + lane / 4 + i / 2 * 8, column = tile * TILE_ROWS + n * 8 + lane % 4 * 2 + i % 2;
                    if (!shape.sees(row, column)) scores[n][i] = -INFINITY;
                }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = largest[half];
#pragma unroll
            for (int n = 0; n < TILE_ROWS / 8; n++) top = fmaxf(top, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
            // A row may see nothing of its first tile; −∞ − −∞ would be no number.
            const float known = top == -INFINITY ? 0.0f : top;
            const float keep = exp2_fast((largest[half] - known) * scale), shift = known * scale;
            largest[half] = top;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < TILE_ROWS / 8; n++)
#pragma unroll
                for (int i = half * 2; i < half * 2 + 2; i++) {
                    scores[n][i] = exp2_fast(scores[n][i] * scale - shift);
                    sum += scores[n][i];
                }
            total[half] = total[half] * keep + sum;
#pragma unroll
            for (int n = 0; n < D / 8; n++) sums[n][half * 2] *= keep, sums[n][half * 2 + 1] *= keep;
        }
        add_weighted(scores, v(tile), 0, sums);
        __syncthreads();
    }
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(0xffffffff, total[half], 1);
        total[half] += __shfl_xor_sync(0xffffffff, total[half], 2);
        factors[half] = 1.0f / total[half];
        const int row = begin + warp_row + lane / 4 + half * 8;
        if (lane % 4 == 0 && row < len)
            log_sum_exp[(size_t)(first + row) * shape.heads + head] = largest[half] * shape.scale + __log2f(total[half]) * LN_2;
    }
    write_rows<T, D>(sums, factors, output + (first + begin) * wide + head * D, wide, len - begin);
}

// Grid: tiles of queries (the last first), heads, sequences.
template <typename T, int D>
__device__ void query_gradient(
    Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, const T* output_grad, const float* log_sum_exp,
    const float* pulls, T* query_grad) {
    extern __shared__ __align__(128) unsigned char memory[];
    T* shared = reinterpret_cast<T*>(memory);
    constexpr int NUMBERS = Tile<T, D>::NUMBERS;
    const Tile<T, D> q{shared}, grad{shared + NUMBERS};
    const int first = borders[blockIdx.z], len = borders[blockIdx.z + 1] - first;
    const int begin = ((int)gridDim.x - 1 - (int)blockIdx.x) * TILE_ROWS;
    if (begin >= len) return;
    const int head = blockIdx.y, source = head / (shape.heads / shape.key_value_heads);
    const size_t wide = (size_t)shape.heads * D, narrow = (size_t)shape.key_value_heads * D;
    const T* keys = key + first * narrow + source * D;
    const T* values = value + first * narrow + source * D;
    const size_t place = (first + begin) * wide + head * D;
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    const float scale = shape.scale * LOG2_E;
    auto k = [&](int tile) { return Tile<T, D>{shared + NUMBERS * (2 + tile % 2 * 2)}; };
    auto v = [&](int tile) { return Tile<T, D>{shared + NUMBERS * (3 + tile % 2 * 2)}; };
    auto fetch = [&](int tile) {
        const int from = tile * TILE_ROWS;
        k(tile).copy(keys + from * narrow, narrow, len - from);
        v(tile).copy(values + from * narrow, narrow, len - from);
    };
    q.copy(query + place, wide, len - begin);
    grad.copy(output_grad + place, wide, len - begin);
    const int start = shape.first_seen(begin) / TILE_ROWS, tiles = begin / TILE_ROWS + 1;
    fetch(start);
    commit_copies();
    float shift[2], pull[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = min(begin + warp_row + lane / 4 + half * 8, len - 1);
        shift[half] = log_sum_exp[(size_t)(first + row) * shape.heads + head] * LOG2_E;
        pull[half] = pulls[(size_t)(first + row) * shape.heads + head];
    }
    const float slope = shape.slope(head) / shape.scale;
    float sums[D / 8][4] = {};
    for (int tile = start; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1);
        commit_copies();
        wait_for_copies<1>();
        __syncthreads();
        float weights[TILE_ROWS / 8][4] = {}, weights_grad[TILE_ROWS / 8][4] = {};
        add_rows_by_rows(q, warp_row, k(tile), 0, weights);
        add_rows_by_rows(grad, warp_row, v(tile), 0, weights_grad);
        if (slope > 0.0f) add_bias(slope, begin + warp_row, tile * TILE_ROWS, weights);
        const bool partly = partly_hidden(shape, begin, tile * TILE_ROWS);
#pragma unroll
        for (int n = 0; n < TILE_ROWS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = begin + warp_row + lane / 4 + i / 2 * 8, column = tile * TILE_ROWS + n * 8 + lane % 4 * 2 + i % 2;
                const bool hidden = partly && !shape.sees(row, column);
                const float p = hidden ? 0.0f : exp2_fast(weights[n][i] * scale - shift[i / 2]);
                weights_grad[n][i] = p * (weights_grad[n][i] - pull[i / 2]);
            }
        add_weighted(weights_grad, k(tile), 0, sums);
        __syncthreads();
    }
    const float factors[2] = {shape.scale, shape.scale};
    write_rows<T, D>(sums, factors, query_grad + place, wide, len - begin);
}

// Grid: tiles of keys, key/value heads, sequences. Works on the transposes: rows are keys, columns queries, QUERIES of them at once.
template <typename T, int D>
__device__ void key_value_gradient(
    Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, const T* output_grad, const float* log_sum_exp,
    const float* pulls, T* key_grad, T* value_grad) {
    extern __shared__ __align__(128) unsigned char memory[];
    T* shared = reinterpret_cast<T*>(memory);
    constexpr int NUMBERS = Tile<T, D>::NUMBERS, QUERIES = 32;
    const Tile<T, D> k{shared}, v{shared + NUMBERS};
    float* sums_of_rows = reinterpret_cast<float*>(shared + 6 * NUMBERS);
    const int first = borders[blockIdx.z], len = borders[blockIdx.z + 1] - first;
    const int from = blockIdx.x * TILE_ROWS;
    if (from >= len) return;
    const int group = shape.heads / shape.key_value_heads;
    const size_t wide = (size_t)shape.heads * D, narrow = (size_t)shape.key_value_heads * D;
    const size_t place = (first + from) * narrow + blockIdx.y * D;
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    const float scale = shape.scale * LOG2_E;
    // All tiles of queries of all heads of the group, one after another; those up to the last query that sees the last of these keys.
    const int reach = min(len - from, shape.window + TILE_ROWS - 1);
    const int each = (reach + TILE_ROWS - 1) / TILE_ROWS, steps = each * group;
    auto q = [&](int step) { return Tile<T, D>{shared + NUMBERS * (2 + step % 2 * 2)}; };
    auto grad = [&](int step) { return Tile<T, D>{shared + NUMBERS * (3 + step % 2 * 2)}; };
    auto shifts = [&](int step) { return sums_of_rows + step % 2 * 2 * TILE_ROWS; };
    auto fetch = [&](int step) {
        const int head = blockIdx.y * group + step / each, begin = from + step % each * TILE_ROWS;
        const size_t at = (first + begin) * wide + head * D;
        q(step).copy(query + at, wide, len - begin);
        grad(step).copy(output_grad + at, wide, len - begin);
        // One thread each: the shift of a row's exponent, and after TILE_ROWS of them the row's pull. Rows that do not exist get probability 0.
        const int row = threadIdx.x % TILE_ROWS;
        const size_t sum = (size_t)(first + begin + row) * shape.heads + head;
        const bool exists = begin + row < len;
        shifts(step)[threadIdx.x] = threadIdx.x < TILE_ROWS ? (exists ? log_sum_exp[sum] * LOG2_E : INFINITY) : (exists ? pulls[sum] : 0.0f);
    };
    k.copy(key + place, narrow, len - from);
    v.copy(value + place, narrow, len - from);
    fetch(0);
    commit_copies();
    float key_sums[D / 8][4] = {}, value_sums[D / 8][4] = {};
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) fetch(step + 1);
        commit_copies();
        wait_for_copies<1>();
        __syncthreads();
        const int begin = from + step % each * TILE_ROWS;
        const bool partly = partly_hidden(shape, begin, from);
        const float slope = shape.slope(blockIdx.y * group + step / each) / shape.scale;
#pragma unroll
        for (int part = 0; part < TILE_ROWS; part += QUERIES) {
            float weights[QUERIES / 8][4] = {}, weights_grad[QUERIES / 8][4] = {};
            add_rows_by_rows(k, warp_row, q(step), part, weights);
            add_rows_by_rows(v, warp_row, grad(step), part, weights_grad);
#pragma unroll
            for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int column = part + n * 8 + lane % 4 * 2 + i % 2;
                    const int query_row = begin + column, key_row = from + warp_row + lane / 4 + i / 2 * 8;
                    const bool hidden = partly && !shape.sees(query_row, key_row);
                    const float score = weights[n][i] + slope * (float)(key_row - query_row);
                    const float p = hidden ? 0.0f : exp2_fast(score * scale - shifts(step)[column]);
                    weights[n][i] = p;
                    weights_grad[n][i] = p * (weights_grad[n][i] - shifts(step)[TILE_ROWS + column]);
                }
            add_weighted(weights, grad(step), part, value_sums);
            add_weighted(weights_grad, q(step), part, key_sums);
        }
        __syncthreads();
    }
    const float plain[2] = {1.0f, 1.0f}, scaled[2] = {shape.scale, shape.scale};
    write_rows<T, D>(value_sums, plain, value_grad + place, narrow, len - from);
    write_rows<T, D>(key_sums, scaled, key_grad + place, narrow, len - from);
}

#define DEFINE_SIZE(name, T, D)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS) tensor_core_attention_##D##_##name(                                  \
        Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, T* output, float* log_sum_exp) {         \
        forward<T, D>(shape, borders, query, key, value, output, log_sum_exp);                                                       \
    }                                                                                                                                \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS) tensor_core_attention_query_gradient_##D##_##name(                   \
        Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, const T* output_grad,                    \
        const float* log_sum_exp, const float* pulls, T* query_grad) {                                                               \
        query_gradient<T, D>(shape, borders, query, key, value, output_grad, log_sum_exp, pulls, query_grad);                        \
    }                                                                                                                                \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS) tensor_core_attention_key_value_gradient_##D##_##name(               \
        Shape shape, const uint32_t* borders, const T* query, const T* key, const T* value, const T* output_grad,                    \
        const float* log_sum_exp, const float* pulls, T* key_grad, T* value_grad) {                                                  \
        key_value_gradient<T, D>(shape, borders, query, key, value, output_grad, log_sum_exp, pulls, key_grad, value_grad);          \
    }
DEFINE_SIZE(f16, __half, 64)
DEFINE_SIZE(f16, __half, 128)
DEFINE_SIZE(bf16, __nv_bfloat16, 64)
DEFINE_SIZE(bf16, __nv_bfloat16, 128)
