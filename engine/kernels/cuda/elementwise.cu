// Rope, the gated activation, and copies of rows and numbers.
#include "common.cuh"

// Rotates the halves of the first 2 · half numbers of each head: (a, b) → (a cos − b sin, b cos + a sin). One block a row; N pairs at once. `angles`
// holds, at each position, the cosines of the pairs, then the sines. sign −1 turns back.
template <typename T, int N>
__device__ void rope(T* x, const float* angles, const uint32_t* positions, int heads, int head_dim, int half, float sign) {
    const float* angle = angles + (size_t)positions[blockIdx.x] * 2 * half;
    T* row = x + (size_t)blockIdx.x * heads * head_dim;
    const int runs = half / N;
    for (int i = threadIdx.x; i < heads * runs; i += blockDim.x) {
        const int pair = i % runs * N;
        T* place = row + i / runs * head_dim + pair;
        float a[N], b[N], cosine[N], sine[N];
        load(place, a);
        load(place + half, b);
#pragma unroll
        for (int j = 0; j < N; j++) cosine[j] = angle[pair + j], sine[j] = angle[half + pair + j] * sign;
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float turned = b[j] * cosine[j] + a[j] * sine[j];
            a[j] = a[j] * cosine[j] - b[j] * sine[j];
            b[j] = turned;
        }
        store(place, a);
        store(place + half, b);
    }
}

// As rope, neighbours instead of halves: numbers 2 i and 2 i + 1. One pair at a time.
template <typename T>
__device__ void rope_interleaved(T* x, const float* angles, const uint32_t* positions, int heads, int head_dim, int half, float sign) {
    const float* angle = angles + (size_t)positions[blockIdx.x] * 2 * half;
    T* row = x + (size_t)blockIdx.x * heads * head_dim;
    for (int i = threadIdx.x; i < heads * half; i += blockDim.x) {
        const int pair = i % half;
        T* place = row + i / half * head_dim + 2 * pair;
        const float a = to_float(place[0]), b = to_float(place[1]), cosine = angle[pair], sine = angle[half + pair] * sign;
        place[0] = from_float<T>(a * cosine - b * sine);
        place[1] = from_float<T>(b * cosine + a * sine);
    }
}

// Calls `work` for every run of N numbers, and for what is left one by one.
template <typename T, typename Work> __device__ __forceinline__ void for_runs(size_t len, bool aligned, Work work) {
    constexpr int N = WIDE<T>;
    const size_t thread = blockIdx.x * (size_t)blockDim.x + threadIdx.x, threads = (size_t)gridDim.x * blockDim.x;
    const size_t runs = aligned ? len / N : 0;
    for (size_t i = thread; i < runs; i += threads) work.template operator()<N>(i * N);
    for (size_t i = runs * N + thread; i < len; i += threads) work.template operator()<1>(i);
}

__device__ __forceinline__ bool aligned(const void* a, const void* b, const void* c) {
    return ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) % 16 == 0;
}

template <typename T> __device__ void swiglu(size_t len, const T* gate, const T* up, T* out) {
    for_runs<T>(len, aligned(gate, up, out), [=]<int N>(size_t i) {
        float g[N], u[N];
        load(gate + i, g);
        load(up + i, u);
#pragma unroll
        for (int j = 0; j < N; j++) g[j] = g[j] / (1.0f + expf(-g[j])) * u[j];
        store(out + i, g);
    });
}

// Replaces gate and up by their gradients: with σ the sigmoid of gate, d gate = g · up · σ · (1 + gate · (1 − σ)), d up = g · gate · σ;
// activated = gate · σ · up.
template <typename T> __device__ void swiglu_backward(size_t len, const T* output_grad, T* gate, T* up, T* activated) {
    for_runs<T>(len, aligned(gate, up, output_grad) && aligned(activated, activated, activated), [=]<int N>(size_t i) {
        float d[N], g[N], u[N], a[N];
        load(output_grad + i, d);
        load(gate + i, g);
        load(up + i, u);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float sigmoid = 1.0f / (1.0f + expf(-g[j])), silu = g[j] * sigmoid;
            const float slope = sigmoid + silu * (1.0f - sigmoid);
            a[j] = silu * u[j];
            g[j] = d[j] * u[j] * slope;
            u[j] = d[j] * silu;
        }
        store(activated + i, a);
        store(gate + i, g);
        store(up + i, u);
    });
}

// out [rows, width] = rows of `table` with these numbers, or (scatter) the other way round. One block a row; N numbers at once.
template <typename From, typename To, bool SCATTER, int N>
__device__ void move_runs(const From* from, const uint32_t* numbers, int width, To* to) {
    const size_t there = (size_t)numbers[blockIdx.x] * width, here = (size_t)blockIdx.x * width;
    const From* source = from + (SCATTER ? here : there);
    To* target = to + (SCATTER ? there : here);
    for (int i = threadIdx.x * N; i < width; i += blockDim.x * N) {
        float run[N];
        load(source + i, run);
        store(target + i, run);
    }
}

// As move_runs, at once as many numbers as 16 bytes hold: a table in the host's memory is read over the bus, which wants wide reads.
template <typename From, typename To, bool SCATTER>
__device__ void move_rows(const From* from, const uint32_t* numbers, int width, To* to) {
    constexpr int N = 16 / (sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
    if (width % N == 0 && aligned(from, to, to))
        move_runs<From, To, SCATTER, N>(from, numbers, width, to);
    else
        move_runs<From, To, SCATTER, 1>(from, numbers, width, to);
}

template <typename From, typename To> __device__ void convert(size_t len, const From* from, To* to) {
    const size_t thread = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    for (size_t i = thread; i < len; i += (size_t)gridDim.x * blockDim.x) to[i] = from_float<To>(to_float(from[i]));
}

template <typename T> __device__ void add_bias(T* x, const float* bias, int width, size_t len) {
    const size_t thread = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    for (size_t i = thread; i < len; i += (size_t)gridDim.x * blockDim.x) x[i] = from_float<T>(to_float(x[i]) + bias[i % width]);
}

#define DEFINE(name, T)                                                                                                              \
    extern "C" __global__ void rope_##name(                                                                                         \
        T* x, const float* angles, const uint32_t* positions, int heads, int head_dim, int half, float sign) {                      \
        if (half % WIDE<T> == 0 && head_dim % WIDE<T> == 0 && aligned(x, x, x))                                                     \
            rope<T, WIDE<T>>(x, angles, positions, heads, head_dim, half, sign);                                                    \
        else                                                                                                                        \
            rope<T, 1>(x, angles, positions, heads, head_dim, half, sign);                                                          \
    }                                                                                                                               \
    extern "C" __global__ void rope_interleaved_##name(                                                                             \
        T* x, const float* angles, const uint32_t* positions, int heads, int head_dim, int half, float sign) {                      \
        rope_interleaved<T>(x, angles, positions, heads, head_dim, half, sign);                                                     \
    }                                                                                                                               \
    extern "C" __global__ void swiglu_##name(size_t len, const T* gate, const T* up, T* out) { swiglu<T>(len, gate, up, out); }      \
    extern "C" __global__ void swiglu_backward_##name(size_t len, const T* output_grad, T* gate, T* up, T* activated) {              \
        swiglu_backward<T>(len, output_grad, gate, up, activated);                                                                   \
    }                                                                                                                                \
    extern "C" __global__ void scatter_rows_##name(const T* from, const uint32_t* numbers, int width, T* to) {                       \
        move_rows<T, T, true>(from, numbers, width, to);                                                                             \
    }                                                                                                                                \
    extern "C" __global__ void add_bias_##name(T* x, const float* bias, int width, size_t len) { add_bias<T>(x, bias, width, len); }
FOR_EACH_TYPE(DEFINE)

#define DEFINE_PAIR(from_name, From, to_name, To)                                                                                    \
    extern "C" __global__ void gather_rows_##from_name##_##to_name(const From* from, const uint32_t* numbers, int width, To* to) {   \
        move_rows<From, To, false>(from, numbers, width, to);                                                                        \
    }                                                                                                                                \
    extern "C" __global__ void convert_##from_name##_##to_name(size_t len, const From* from, To* to) { convert<From, To>(len, from, to); }
#define DEFINE_FROM_F32(name, T) DEFINE_PAIR(f32, float, name, T)
#define DEFINE_FROM_F16(name, T) DEFINE_PAIR(f16, __half, name, T)
#define DEFINE_FROM_BF16(name, T) DEFINE_PAIR(bf16, __nv_bfloat16, name, T)
FOR_EACH_TYPE(DEFINE_FROM_F32)
FOR_EACH_TYPE(DEFINE_FROM_F16)
FOR_EACH_TYPE(DEFINE_FROM_BF16)
