// Numbers, vector access and reductions that all kernels share. Everything is computed in f32; T is only how numbers are stored.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// N numbers that are read or written at once; N * sizeof(T) is at most 16 bytes.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

// Numbers of 16 bytes.
template <typename T> constexpr int WIDE = 16 / sizeof(T);

template <int N, typename T> __device__ __forceinline__ void load(const T* from, float (&to)[N]) {
    Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = to_float(pack.v[i]);
}

template <int N, typename T> __device__ __forceinline__ void store(T* to, const float (&from)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) pack.v[i] = from_float<T>(from[i]);
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, offset));
    return x;
}

// Sum over a block of up to 1024 threads, the same for every thread and every run. `partial` holds 32 numbers.
__device__ __forceinline__ float block_sum(float x, float* partial) {
    x = warp_sum(x);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    __syncthreads();
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    const int warps = blockDim.x / 32;
    return warp_sum(lane < warps ? partial[lane] : 0.0f);
}

// As block_sum, the maximum.
__device__ __forceinline__ float block_max(float x, float* partial) {
    x = warp_max(x);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    __syncthreads();
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    const int warps = blockDim.x / 32;
    return warp_max(lane < warps ? partial[lane] : -INFINITY);
}

// Defines `name_f32`, `name_f16` and `name_bf16` as instances of a template.
#define FOR_EACH_TYPE(DEFINE) \
    DEFINE(f32, float)        \
    DEFINE(f16, __half)       \
    DEFINE(bf16, __nv_bfloat16)
