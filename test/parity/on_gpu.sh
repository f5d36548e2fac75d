#!/usr/bin/env bash
# The parity suite on a GPU in exact f32, and every operation beside the processor in f32, f16 and bf16. Needs a CUDA toolkit and a GPU.
#
#     test/parity/on_gpu.sh [NUMBER OF THE GPU]
set -euo pipefail
cd "$(dirname "$0")/../.."
export LUTHIER_TEST_GPU="${1:-0}"
# One after another: every case opens the device anew.
cargo test --release -p luthier-core --features cuda --test cuda --test parity -- --test-threads=1
