// What attention's kernels are told of their sizes; laid out as in src/attention.rs.
#pragma once
#include "common.cuh"

struct Shape {
    int heads, key_value_heads, head_dim;
    // Last positions that a position sees, itself among them; at most the number of positions.
    int window;
    float scale;

    __device__ __forceinline__ bool sees(int row, int column) const { return column <= row && row - column < window; }
    // The first position that a row sees.
    __device__ __forceinline__ int first_seen(int row) const { return max(row - window + 1, 0); }
};
