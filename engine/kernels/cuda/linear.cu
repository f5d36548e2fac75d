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

// What becomes of the sums. Of a GATED layer they are `up`: activated = silu(gate) · up leaves beside them. GATED_BACKWARD: they are the gradient
// of `activated`; gate and up are replaced by their gradients, and activated leaves once more.
enum Finish { PLAIN, ROPE_64, ROPE_128, GATED, GATED_BACKWARD };
constexpr int MAX_RESULTS = 3, MAX_INPUTS = 2;

struct Segment {
    CUtensorMap a, b;
};

// Laid out as in src/linear.rs.
struct LinearProduct {
    Segment segments[MAX_SEGMENTS];
    // `out`; of gated layers activated and up, or gate, up and activated.
    CUtensorMap results[MAX_RESULTS];
    // [rows, columns] each: what the sums start from, if anything; of gated layers gate, and in their backward pass up. May be where results go.
    CUtensorMap inputs[MAX_INPUTS];
    // Rope of the result, where the kernel does it: for each position cosines, then sines, of the pairs of a head; the position of each row.
    const float* angles;
    const uint32_t* positions;
    int depths[MAX_SEGMENTS];
    int segment_count, input_count, rows, columns;
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

// One thread of a block copies its tiles of `a`, and its half of the cluster's tiles of `b` to both blocks; after the operands of a result's tile,
// 64 columns of the inputs at a time, each in a stage of its own.
template <typename T, bool B_TURNED> __device__ void copy_tiles(const LinearProduct& p, Shared<T>& shared, uint32_t rank) {
    constexpr uint16_t EVERY_BLOCK = (1 << CLUSTER) - 1;
    constexpr uint32_t STAGE_BYTES = sizeof(T) * (A_NUMBERS + B_NUMBERS);
    Tiles tiles(p.rows, p.columns);
    Turn turn;
    int row, column;
    while (tiles.next(rank, row, column)) {
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
        for (int c = 0; p.input_count > 0 && c < TILE_COLUMNS / OUT_WIDTH; c++, turn.next()) {
            hopper::wait(&shared.empty[turn.stage], turn.parity ^ 1);
            uint64_t* full = &shared.full[turn.stage];
            hopper::expect_bytes(full, sizeof(T) * TILE_ROWS * OUT_WIDTH * p.input_count);
            hopper::load_tile(p.inputs[0], shared.a[turn.stage], full, column + c * OUT_WIDTH, row);
            if (p.input_count > 1) hopper::load_tile(p.inputs[1], shared.b[turn.stage], full, column + c * OUT_WIDTH, row);
        }
    }
}

// Rotates the heads in a thread's sums, of 2 · HALF columns each: number i of a head is a pair with number HALF + i (rope in elementwise.cu).
template <int HALF> __device__ __forceinline__ void rotate(const LinearProduct& p, float (&sums)[32][4], int first_row, int lane) {
    constexpr int STEP = HALF / 8, HEADS = TILE_COLUMNS / (2 * HALF);
    const float* angles[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first_row + lane / 4 + half * 8;
        angles[half] = p.angles + (size_t)(row < p.rows ? p.positions[row] : 0) * 2 * HALF + lane % 4 * 2;
    }
#pragma unroll
    for (int j = 0; j < STEP; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float2 cosines = *reinterpret_cast<const float2*>(angles[half] + j * 8);
            const float2 sines = *reinterpret_cast<const float2*>(angles[half] + HALF + j * 8);
            auto turn = [](float& a, float& b, float cosine, float sine) {
                const float turned = b * cosine + a * sine;
                a = a * cosine - b * sine;
                b = turned;
            };
#pragma unroll
            for (int head = 0; head < HEADS; head++) {
                float(&a)[4] = sums[head * 2 * STEP + j], (&b)[4] = sums[head * 2 * STEP + STEP + j];
                turn(a[half * 2], b[half * 2], cosines.x, sines.x);
                turn(a[half * 2 + 1], b[half * 2 + 1], cosines.y, sines.y);
            }
        }
}

// What a thread holds of 64 columns of a 16-bit matrix, laid out as its sums: numbers of two neighbouring columns of its upper and its lower row.
struct Piece {
    uint32_t pairs[OUT_WIDTH / 8][2];

    template <typename Work> static __device__ __forceinline__ void for_pairs(Work work) {
#pragma unroll
        for (int j = 0; j < OUT_WIDTH / 8; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) work(j, half);
    }
};

// Where a lane says four 8 × 8 matrices begin, of a warp's sixteen rows and columns 8 j to 8 j + 16 of a tile with 64 columns.
template <typename T> __device__ __forceinline__ uint32_t matrices(const T* tile, int warp, int lane, int j) {
    const int row = warp * 16 + lane % 16;
    return hopper::shared_address(tile) + row * 128 + ((j + lane / 16) ^ (row % 8)) * 16;
}

template <typename T> __device__ __forceinline__ Piece load_piece(const T* tile, int warp, int lane) {
    Piece piece;
#pragma unroll
    for (int j = 0; j < OUT_WIDTH / 8; j += 2) {
        uint32_t(&x)[2] = piece.pairs[j], (&y)[2] = piece.pairs[j + 1];
        hopper::load_matrices(matrices(tile, warp, lane, j), x[0], x[1], y[0], y[1]);
    }
    return piece;
}

template <typename T> __device__ __forceinline__ void store_piece(T* tile, const Piece& piece, int warp, int lane) {
#pragma unroll
    for (int j = 0; j < OUT_WIDTH / 8; j += 2) {
        const uint32_t(&x)[2] = piece.pairs[j], (&y)[2] = piece.pairs[j + 1];
        hopper::store_matrices(matrices(tile, warp, lane, j), x[0], x[1], y[0], y[1]);
    }
}

// To within the rounding of the results' 16 bits.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// A warpgroup multiplies 64 rows of the block's tiles.
template <typename T, bool B_TURNED, Finish FINISH> __device__ void multiply_tiles(const LinearProduct& p, Shared<T>& shared, uint32_t rank) {
    constexpr int RESULTS = FINISH == GATED ? 2 : FINISH == GATED_BACKWARD ? 3 : 1;
    const int part = threadIdx.x / 128 - 1, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    Tiles tiles(p.rows, p.columns);
    Turn turn;
    int row, column;
    // The stage whose numbers were replaced by results that may still be on their way.
    int leaving = -1;
    // Gives it back when all but the last LEFT stores of the warpgroup have read their tiles.
    auto give_back = [&]<int LEFT>() {
        if (leaving >= 0 && thread == 0) {
            hopper::wait_stores_read<LEFT>();
            for (int block = 0; block < CLUSTER; block++) hopper::arrive_at(&shared.empty[leaving], block);
        }
        leaving = -1;
    };
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
            give_back.template operator()<0>();
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
        hopper::wait_products<0>();
        release();
        if constexpr (FINISH == ROPE_64) rotate<32>(p, sums, first_row + warp * 16, lane);
        if constexpr (FINISH == ROPE_128) rotate<64>(p, sums, first_row + warp * 16, lane);
        auto pair = [&](int c, int j, int half) { return &sums[c * (OUT_WIDTH / 8) + j][half * 2]; };
#pragma unroll
        for (int c = 0; c < TILE_COLUMNS / OUT_WIDTH; c++) {
            const int at = column + c * OUT_WIDTH;
            if (p.input_count == 0) {
                T* out = shared.out[part][c % OUT_TILES];
                if (thread == 0) hopper::wait_stores_read<OUT_TILES - 1>();
                asm volatile("bar.sync %0, 128;" ::"r"(part + 1) : "memory");
                Piece piece;
                piece.for_pairs([&](int j, int half) { piece.pairs[j][half] = pack(pair(c, j, half)[0], pair(c, j, half)[1], T()); });
                store_piece(out, piece, warp, lane);
                hopper::publish_stores();
                asm volatile("bar.sync %0, 128;" ::"r"(part + 1) : "memory");
                if (thread == 0) hopper::store_tile(p.results[0], out, at, first_row);
                continue;
            }
            // Results take the place of the inputs, and of a stage's other numbers. A warp touches its own rows only.
            hopper::wait(&shared.full[turn.stage], turn.parity);
            T* const tiles_of[3] = {shared.a[turn.stage] + part * OUT_NUMBERS, shared.b[turn.stage] + part * OUT_NUMBERS,
                                    shared.b[turn.stage] + (2 + part) * OUT_NUMBERS};
            Piece first = load_piece(tiles_of[0], warp, lane), second, third;
            if constexpr (FINISH == GATED_BACKWARD) second = load_piece(tiles_of[1], warp, lane);
            first.for_pairs([&](int j, int half) {
                const float x = pair(c, j, half)[0], y = pair(c, j, half)[1];
                uint32_t &a = first.pairs[j][half], &b = second.pairs[j][half];
                const float2 g = unpack(a, T());
                if constexpr (FINISH == GATED) {
                    b = pack(x, y, T());
                    // As it will be read again.
                    const float2 u = unpack(b, T());
                    a = pack(g.x * sigmoid(g.x) * u.x, g.y * sigmoid(g.y) * u.y, T());
                } else if constexpr (FINISH == GATED_BACKWARD) {
                    const float2 u = unpack(b, T()), s = {sigmoid(g.x), sigmoid(g.y)}, silu = {g.x * s.x, g.y * s.y};
                    const float2 slope = {s.x + silu.x * (1.0f - s.x), s.y + silu.y * (1.0f - s.y)};
                    third.pairs[j][half] = pack(silu.x * u.x, silu.y * u.y, T());
                    a = pack(x * u.x * slope.x, y * u.y * slope.y, T());
                    b = pack(x * silu.x, y * silu.y, T());
                } else {
                    a = pack(x + g.x, y + g.y, T());
                }
            });
            store_piece(tiles_of[0], first, warp, lane);
            if constexpr (RESULTS > 1) store_piece(tiles_of[1], second, warp, lane);
            if constexpr (RESULTS > 2) store_piece(tiles_of[2], third, warp, lane);
            hopper::publish_stores();
            asm volatile("bar.sync %0, 128;" ::"r"(part + 1) : "memory");
            if (thread == 0)
                for (int i = 0; i < RESULTS; i++) hopper::store_tile(p.results[i], tiles_of[i], at, first_row);
            give_back.template operator()<RESULTS>();
            leaving = turn.stage;
            turn.next();
        }
    }
    if (thread == 0) hopper::wait_stores();
}
#endif

template <typename T, bool B_TURNED, Finish FINISH> __device__ __forceinline__ void linear(const LinearProduct& p) {
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
        multiply_tiles<T, B_TURNED, FINISH>(p, shared, rank);
    }
    // No block ends while the other may still write to it.
    hopper::cluster_sync();
#endif
}

#define DEFINE_KERNEL(name, ...)                                                                                                \
    extern "C" __global__ void CLUSTERED __launch_bounds__(THREADS, 1) name(const __grid_constant__ LinearProduct p) {          \
        linear<__VA_ARGS__>(p);                                                                                                 \
    }
#define DEFINE(name, T)                                                  \
    DEFINE_KERNEL(linear_##name, T, false, PLAIN)                        \
    DEFINE_KERNEL(linear_rope_64_##name, T, false, ROPE_64)              \
    DEFINE_KERNEL(linear_rope_128_##name, T, false, ROPE_128)            \
    DEFINE_KERNEL(linear_gated_##name, T, false, GATED)                  \
    DEFINE_KERNEL(linear_turned_##name, T, true, PLAIN)                  \
    DEFINE_KERNEL(linear_turned_gated_##name, T, true, GATED_BACKWARD)
DEFINE(f16, __half)
DEFINE(bf16, __nv_bfloat16)
