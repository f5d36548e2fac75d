// What attention's kernels are told of their sizes; laid out as in src/attention.rs.
#pragma once
#include "common.cuh"

struct Shape {
    int heads, key_value_heads, head_dim;
    float scale;
};
