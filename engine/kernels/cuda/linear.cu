// Products of linear layers on compute capability 9.0: out [rows, columns] = Σ a_i [rows, depth_i] · b_i + start over up to four segments. A linear
// layer and its low-rank half are two segments of one product, and so are the layers whose gradients meet in a shared input: their sums never
// leave registers, and a rank of 8 costs a sixteenth of a step of the depth.
#include "hopper.cuh"

#if !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CLUSTERED
#else
#define CLUSTERED __cluster_dims__(CLUSTER, 1, 1)
#endif

// As in src/linear.rs.
constexpr int TILE_ROWS = 128, TILE_COLUMNS = 256, TILE_DEPTH = 64, STAGES = 4, CLUSTER = 2, MAX_SEGMENTS = 4, THREADS = 384;
// Pairs of row tiles that are worked on beside each other: with 66 clusters, about as many numbers of `a` as of `b` are read at a time.
constexpr int GROUP = 8;
constexpr int A_NUMBERS = TILE_ROWS * TILE_DEPTH, B_NUMBERS = TILE_COLUMNS * TILE_DEPTH;
// Results leave in tiles of 64 × 64, two of each warpgroup at a time.
constexpr int OUT_WIDTH = 64, OUT_NUMBERS = 64 * OUT_WIDTH, OUT_TILES = 2;

struct Segment {
    CUtensorMap a, b;
};

// Laid out as in src/linear.rs.
struct LinearProduct {
    Segment segments[MAX_SEGMENTS];
    CUtensorMap out;
    // [rows, columns], or null: from zero. May be where `out` goes.
    const void* start;
    int depths[MAX_SEGMENTS];
    int segment_count, rows, columns;
};

template <typename T> struct Shared {
    T a[STAGES][A_NUMBERS];
    T b[STAGES][B_NUMBERS];
    T out[2][OUT_TILES][OUT_NUMBERS];
    uint64_t full[STAGES], empty[STAGES];
};
// What src/linear.rs asks for, with room to begin at a multiple of 1024.
static_assert(sizeof(Shared<__half>) + 1024 <= 232448);

__device__ __forceinline__ uint32_t pack(float x, float y, __nv_bfloat16) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&both);
}
__device__ __forceinline__ uint32_t pack(float x, float y, __half) {
    const __half2 both = __floats2half2_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&both);
}
__device__ __forceinline__ float2 unpack(uint32_t both, __nv_bfloat16) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&both));
}
__device__ __forceinline__ float2 unpack(uint32_t both, __half) { return __half22float2(*reinterpret_cast<const __half2*>(&both)); }

// The tiles of a block: its cluster takes two below each other, at a distance from the last that keeps those at work at a time together.
struct Tiles {
    int pairs, across, at, step;

    __device__ Tiles(int rows, int columns)
        : pairs((rows + CLUSTER * TILE_ROWS - 1) / (CLUSTER * TILE_ROWS)), across((columns + TILE_COLUMNS - 1) / TILE_COLUMNS),
          at(blockIdx.x / CLUSTER), step(gridDim.x / CLUSTER) {}

    __device__ bool next(uint32_t rank, int& row, int& column) {
        if (at >= pairs * across) return false;
        const int group = at / (GROUP * across), inside = at % (GROUP * across), height = min(GROUP, pairs - group * GROUP);
        row = ((group * GROUP + inside % height) * CLUSTER + rank) * TILE_ROWS;
        column = inside / height * TILE_COLUMNS;
        at += step;
        return true;
    }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// A stage of the ring between copies and products, and how often the ring was gone round.
struct Turn {
    int stage = 0;
    uint32_t parity = 0;

    __device__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// One thread of a block copies its tiles of `a`, and its half of the cluster's tiles of `b` to both blocks.
template <typename T, bool B_TURNED> __device__ void copy_tiles(const LinearProduct& p, Shared<T>& shared, uint32_t rank) {
    constexpr uint16_t EVERY_BLOCK = (1 << CLUSTER) - 1;
    constexpr uint32_t STAGE_BYTES = sizeof(T) * (A_NUMBERS + B_NUMBERS);
    Tiles tiles(p.rows, p.columns);
    Turn turn;
    int row, column;
    while (tiles.next(rank, row, column))
        for (int i = 0; i < p.segment_count; i++)
            for (int k = 0; k < p.depths[i]; k += TILE_DEPTH, turn.next()) {
                hopper::wait(&shared.empty[turn.stage], turn.parity ^ 1);
                uint64_t* full = &shared.full[turn.stage];
                hopper::expect_bytes(full, STAGE_BYTES);
                hopper::load_tile(p.segments[i].a, shared.a[turn.stage], full, k, row);
                T* b = shared.b[turn.stage] + rank * (B_NUMBERS / CLUSTER);
                const int first = column + rank * (TILE_COLUMNS / CLUSTER);
                if constexpr (B_TURNED) {
                    hopper::load_tile_for(p.segments[i].b, b, full, first, k, EVERY_BLOCK);
                    hopper::load_tile_for(p.segments[i].b, b + 64 * TILE_DEPTH, full, first + 64, k, EVERY_BLOCK);
                } else {
                    hopper::load_tile_for(p.segments[i].b, b, full, k, first, EVERY_BLOCK);
                }
            }
}

// A warpgroup multiplies 64 rows of the block's tiles.
template <typename T, bool B_TURNED> __device__ void multiply_tiles(const LinearProduct& p, Shared<T>& shared, uint32_t rank) {
    const int part = threadIdx.x / 128 - 1, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    Tiles tiles(p.rows, p.columns);
    Turn turn;
    int row, column;
    float sums[32][4];
    while (tiles.next(rank, row, column)) {
        bool started = false;
        int last = -1;
        // Both blocks fill a stage only when the warpgroups of both have read it.
        auto release = [&] {
            if (last >= 0 && thread < CLUSTER) hopper::arrive_at(&shared.empty[last], thread);
        };
        // A stage, of which the first STEPS sixteens of the depth hold numbers. The products before it end while its own are under way.
        auto multiply = [&]<int STEPS>() {
            hopper::wait(&shared.full[turn.stage], turn.parity);
            const uint64_t a = hopper::tile_descriptor(shared.a[turn.stage] + part * 64 * TILE_DEPTH, 16, 1024);
            const uint64_t b = hopper::tile_descriptor(shared.b[turn.stage], B_TURNED ? 64 * TILE_DEPTH * sizeof(T) : 16, 1024);
            // To the next sixteen: 32 bytes further in each row, or 16 rows.
            constexpr uint64_t A_STEP = 32 >> 4, B_STEP = (B_TURNED ? 16 * 128 : 32) >> 4;
            hopper::begin_products();
#pragma unroll
            for (int s = 0; s < STEPS; s++) hopper::product<T, B_TURNED>(sums, a + s * A_STEP, b + s * B_STEP, started || s > 0);
            hopper::commit_products();
            hopper::wait_products<1>();
            release();
            started = true;
            last = turn.stage;
            turn.next();
        };
        for (int i = 0; i < p.segment_count; i++) {
            for (int k = TILE_DEPTH; k <= p.depths[i]; k += TILE_DEPTH) multiply.template operator()<TILE_DEPTH / 16>();
            const int rest = p.depths[i] % TILE_DEPTH;
            if (rest > 32) multiply.template operator()<4>();
            else if (rest > 16) multiply.template operator()<2>();
            else if (rest > 0) multiply.template operator()<1>();
        }
        const int first_row = row + part * 64;
        // What 64 columns of the result start from, brought while something else is done.
        uint32_t before[8][2];
        auto bring = [&](int c) {
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int r = first_row + warp * 16 + lane / 4 + half * 8, at = column + c * OUT_WIDTH + j * 8 + lane % 4 * 2;
                    const T* start = static_cast<const T*>(p.start) + (size_t)r * p.columns + at;
                    before[j][half] = r < p.rows && at < p.columns ? *reinterpret_cast<const uint32_t*>(start) : 0;
                }
        };
        if (p.start) bring(0);
        hopper::wait_products<0>();
        release();
#pragma unroll
        for (int c = 0; c < TILE_COLUMNS / OUT_WIDTH; c++) {
            if (p.start) {
#pragma unroll
                for (int j = 0; j < 8; j++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const float2 add = unpack(before[j][half], T());
                        sums[c * 8 + j][half * 2] += add.x;
                        sums[c * 8 + j][half * 2 + 1] += add.y;
                    }
                if (c + 1 < TILE_COLUMNS / OUT_WIDTH) bring(c + 1);
            }
            T* out = shared.out[part][c % OUT_TILES];
            if (thread == 0) hopper::wait_stores_read<OUT_TILES - 1>();
            asm volatile("bar.sync %0, 128;" ::"r"(part + 1) : "memory");
            const int r = warp * 16 + lane % 16;
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                const float(&x)[4] = sums[c * 8 + j], (&y)[4] = sums[c * 8 + j + 1];
                const uint32_t to = hopper::shared_address(out) + r * 128 + ((j + lane / 16) ^ (r % 8)) * 16;
                hopper::store_matrices(to, pack(x[0], x[1], T()), pack(x[2], x[3], T()), pack(y[0], y[1], T()), pack(y[2], y[3], T()));
            }
            hopper::publish_stores();
            asm volatile("bar.sync %0, 128;" ::"r"(part + 1) : "memory");
            if (thread == 0) hopper::store_tile(p.out, out, column + c * OUT_WIDTH, first_row);
        }
    }
    if (thread == 0) hopper::wait_stores();
}
#endif

template <typename T, bool B_TURNED> __device__ __forceinline__ void linear(const LinearProduct& p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ char raw[];
    auto& shared = *reinterpret_cast<Shared<T>*>(((uintptr_t)raw + 1023) / 1024 * 1024);
    const uint32_t rank = hopper::cluster_rank();
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            hopper::init_barrier(&shared.full[s], 1);
            hopper::init_barrier(&shared.empty[s], 2 * CLUSTER);
        }
        hopper::publish_barriers();
    }
    hopper::cluster_sync();
    // Of 168 registers a thread, those that copy give most to those that hold sums.
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) copy_tiles<T, B_TURNED>(p, shared, rank);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        multiply_tiles<T, B_TURNED>(p, shared, rank);
    }
    // No block ends while the other may still write to it.
    hopper::cluster_sync();
#endif
}

#define DEFINE(name, T)                                                                                                                  \
    extern "C" __global__ void CLUSTERED __launch_bounds__(THREADS, 1) linear_##name(const __grid_constant__ LinearProduct p) {          \
        linear<T, false>(p);                                                                                                             \
    }                                                                                                                                    \
    extern "C" __global__ void CLUSTERED __launch_bounds__(THREADS, 1) linear_turned_##name(const __grid_constant__ LinearProduct p) {   \
        linear<T, true>(p);                                                                                                              \
    }
DEFINE(f16, __half)
DEFINE(bf16, __nv_bfloat16)
