// Causal attention over packed sequences by cuDNN, whose library is opened at run time: the C functions of `src/lib.rs`.
//
// cuDNN's C++ frontend is header-only and composes the operation graph. Nothing here throws across the border: every function that can fail
// writes a message and returns null or a number other than 0.

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace fe = cudnn_frontend;

namespace cudnn_frontend {
// The frontend looks every function of cuDNN up here.
void* cudnn_dlhandle = nullptr;
}  // namespace cudnn_frontend

namespace {

// Arrays of a graph. Their number is `ARRAYS` in `src/lib.rs`.
enum Array : int64_t {
    kQuery,
    kKey,
    kValue,
    kOutput,
    kLogSumExp,
    kOutputGrad,
    kQueryGrad,
    kKeyGrad,
    kValueGrad,
    kLengths,
    kQueryOffsets,
    kKeyOffsets,
    kSumOffsets,
    kArrays,
    // The same lengths once more: queries and keys each name theirs.
    kKeyLengths = kArrays,
};

// As in `src/lib.rs`.
struct Shape {
    int64_t sequences;
    // Rows of the longest sequence, and of all, which only the backward pass needs; at least.
    int64_t longest;
    int64_t rows;
    int64_t heads;
    int64_t key_value_heads;
    int64_t head_dim;
    // Last positions that a position sees, itself among them; 0: all positions before it.
    int64_t window;
    float scale;
    int32_t bf16;
    int32_t backward;
};

using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

// Tensors of one graph, all of them packed: row i of sequence s is row `offset[s] + i`.
class Builder {
  public:
    Builder(fe::graph::Graph& graph, const Shape& shape) : graph_(graph), shape_(shape) {
        lengths_ = integers(kLengths, "lengths", shape.sequences);
        key_lengths_ = integers(kKeyLengths, "key_lengths", shape.sequences);
        query_offsets_ = integers(kQueryOffsets, "query_offsets", shape.sequences + 1);
        key_offsets_ = integers(kKeyOffsets, "key_offsets", shape.sequences + 1);
        sum_offsets_ = integers(kSumOffsets, "sum_offsets", shape.sequences + 1);
    }

    Tensor queries(Array array, const char* name) {
        return input(array, name, shape_.heads, shape_.head_dim, query_offsets_);
    }
    Tensor keys(Array array, const char* name) {
        return input(array, name, shape_.key_value_heads, shape_.head_dim, key_offsets_);
    }
    Tensor sums(Array array, const char* name) {
        Tensor tensor = input(array, name, shape_.heads, 1, sum_offsets_);
        tensor->set_data_type(fe::DataType_t::FLOAT);
        return tensor;
    }

    void query_result(Tensor tensor, Array array) { result(tensor, array, shape_.heads, shape_.head_dim, query_offsets_); }
    void key_result(Tensor tensor, Array array) {
        result(tensor, array, shape_.key_value_heads, shape_.head_dim, key_offsets_);
    }
    void sum_result(Tensor tensor, Array array) {
        result(tensor, array, shape_.heads, 1, sum_offsets_);
        tensor->set_data_type(fe::DataType_t::FLOAT);
    }

    template <class Attributes>
    Attributes& masked(Attributes& attributes) {
        attributes.set_attn_scale(shape_.scale);
        attributes.set_causal_mask(true);
        // From the top left, column + bound > row is kept: the bound counts the row's own position.
        if (shape_.window > 0) attributes.set_diagonal_band_left_bound(static_cast<int>(shape_.window));
        attributes.set_padding_mask(true);
        attributes.set_seq_len_q(lengths_);
        attributes.set_seq_len_kv(key_lengths_);
        return attributes;
    }

  private:
    Tensor integers(int64_t array, const char* name, int64_t count) {
        return graph_.tensor(fe::graph::Tensor_attributes()
                                 .set_uid(array)
                                 .set_name(name)
                                 .set_dim({count, 1, 1, 1})
                                 .set_stride({1, 1, 1, 1})
                                 .set_data_type(fe::DataType_t::INT32));
    }

    std::vector<int64_t> dimensions(int64_t heads, int64_t width) const {
        return {shape_.sequences, heads, shape_.longest, width};
    }
    std::vector<int64_t> strides(int64_t heads, int64_t width) const {
        return {shape_.longest * heads * width, width, heads * width, 1};
    }

    Tensor input(Array array, const char* name, int64_t heads, int64_t width, const Tensor& offsets) {
        return graph_.tensor(fe::graph::Tensor_attributes()
                                 .set_uid(array)
                                 .set_name(name)
                                 .set_dim(dimensions(heads, width))
                                 .set_stride(strides(heads, width))
                                 .set_ragged_offset(offsets));
    }

    void result(const Tensor& tensor, Array array, int64_t heads, int64_t width, const Tensor& offsets) {
        tensor->set_output(true)
            .set_uid(array)
            .set_dim(dimensions(heads, width))
            .set_stride(strides(heads, width))
            .set_ragged_offset(offsets);
    }

    fe::graph::Graph& graph_;
    const Shape& shape_;
    Tensor lengths_, key_lengths_, query_offsets_, key_offsets_, sum_offsets_;
};

void describe_forward(fe::graph::Graph& graph, const Shape& shape) {
    Builder builder(graph, shape);
    auto attributes = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true);
    auto query = builder.queries(kQuery, "query");
    auto key = builder.keys(kKey, "key");
    auto value = builder.keys(kValue, "value");
    auto [output, sums] = graph.sdpa(query, key, value, builder.masked(attributes));
    builder.query_result(output, kOutput);
    builder.sum_result(sums, kLogSumExp);
}

void describe_backward(fe::graph::Graph& graph, const Shape& shape) {
    Builder builder(graph, shape);
    auto attributes = fe::graph::SDPA_backward_attributes().set_name("attention_backward");
    // The same numbers in every run; measured to be no slower on an H100.
    attributes.set_deterministic_algorithm(true);
    // Without these the workspace has room for `sequences` times the longest.
    attributes.set_max_total_seq_len_q(shape.rows).set_max_total_seq_len_kv(shape.rows);
    auto query = builder.queries(kQuery, "query");
    auto key = builder.keys(kKey, "key");
    auto value = builder.keys(kValue, "value");
    auto output = builder.queries(kOutput, "output");
    auto output_grad = builder.queries(kOutputGrad, "output_grad");
    auto sums = builder.sums(kLogSumExp, "log_sum_exp");
    auto [query_grad, key_grad, value_grad] =
        graph.sdpa_backward(query, key, value, output, output_grad, sums, builder.masked(attributes));
    builder.query_result(query_grad, kQueryGrad);
    builder.key_result(key_grad, kKeyGrad);
    builder.key_result(value_grad, kValueGrad);
}

void tell(const std::string& message, char* to, size_t room) {
    const size_t length = std::min(message.size(), room - 1);
    std::memcpy(to, message.data(), length);
    to[length] = '\0';
}

// Runs `work`; false, with a message, where it throws.
template <class Work>
bool guarded(Work work, char* message, size_t room) {
    try {
        const std::string problem = work();
        if (problem.empty()) return true;
        tell(problem, message, room);
    } catch (const std::exception& error) {
        tell(error.what(), message, room);
    } catch (...) {
        tell("an unknown C++ exception", message, room);
    }
    return false;
}

std::string words(cudnnStatus_t status) { return fe::detail::get_error_string(status); }

}  // namespace

extern "C" {

// Opens cuDNN under a name or path, and a handle for the current context. The library stays open.
void* luthier_cudnn_open(const char* library, char* message, size_t room) {
    cudnnHandle_t handle = nullptr;
    const bool done = guarded(
        [&]() -> std::string {
            if (fe::cudnn_dlhandle == nullptr) {
                void* opened = dlopen(library, RTLD_NOW | RTLD_LOCAL);
                if (opened == nullptr) return dlerror();
                fe::cudnn_dlhandle = opened;
            }
            const cudnnStatus_t status = fe::detail::create_handle(&handle);
            return status == CUDNN_STATUS_SUCCESS ? "" : words(status);
        },
        message, room);
    return done ? handle : nullptr;
}

void luthier_cudnn_close(void* handle) { fe::detail::destroy_handle(static_cast<cudnnHandle_t>(handle)); }

// Such as 91400.
size_t luthier_cudnn_version() { return fe::detail::get_backend_version(); }

// Plans attention of a shape, with the bytes of workspace that running it takes.
void* luthier_cudnn_plan(void* handle, const Shape* shape, int64_t* workspace_bytes, char* message, size_t room) {
    auto graph = std::make_unique<fe::graph::Graph>();
    const bool done = guarded(
        [&]() -> std::string {
            graph->set_io_data_type(shape->bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
                .set_intermediate_data_type(fe::DataType_t::FLOAT)
                .set_compute_data_type(fe::DataType_t::FLOAT);
            if (shape->backward) {
                describe_backward(*graph, *shape);
            } else {
                describe_forward(*graph, *shape);
            }
            auto built = graph->build(static_cast<cudnnHandle_t>(handle), {fe::HeurMode_t::A});
            if (built.is_bad()) return built.get_message();
            auto sized = graph->get_workspace_size(*workspace_bytes);
            return sized.is_bad() ? sized.get_message() : "";
        },
        message, room);
    return done ? graph.release() : nullptr;
}

void luthier_cudnn_drop(void* plan) { delete static_cast<fe::graph::Graph*>(plan); }

// Starts a plan on a stream. `arrays` has an address for each `Array`; those that a plan does not use are ignored.
int luthier_cudnn_run(void* handle, void* plan, void* stream, void* const* arrays, void* workspace, char* message,
                      size_t room) {
    const bool done = guarded(
        [&]() -> std::string {
            const auto cudnn = static_cast<cudnnHandle_t>(handle);
            const cudnnStatus_t status = fe::detail::set_stream(cudnn, static_cast<cudaStream_t>(stream));
            if (status != CUDNN_STATUS_SUCCESS) return words(status);
            std::unordered_map<int64_t, void*> places;
            for (int64_t array = 0; array < kArrays; array++) {
                if (arrays[array] != nullptr) places[array] = arrays[array];
            }
            places[kKeyLengths] = arrays[kLengths];
            auto started = static_cast<fe::graph::Graph*>(plan)->execute(cudnn, places, workspace);
            return started.is_bad() ? started.get_message() : "";
        },
        message, room);
    return done ? 0 : 1;
}
}
