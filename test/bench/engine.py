"""The engine beside its peers, in one run: training against transformers + PEFT, generation against transformers and llama.cpp.

    cargo build --release -p luthier-core --examples
    python test/bench/engine.py --model SmolLM2-135M-Instruct.Q4_1.gguf [--threads 2,16] [--repetitions 3] [--only train|generate]

Every program runs alone, pinned to the first THREADS processors; ours and the peers take turns, and the medians are compared. A peer that is
not installed is named and left out. Prints one JSON line per run and one per comparison.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def measure(what, threads, command):
    """Runs a program that prints a JSON line last. None where it cannot run here."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    pinned = ["taskset", "-c", f"0-{threads - 1}", *map(str, command)]
    process = subprocess.run(pinned, env=environment, capture_output=True, text=True)
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or ["no output"]
        print(json.dumps({"what": what, "threads": threads, "failed": lines[-1]}), flush=True)
        return None
    result = json.loads(process.stdout.strip().splitlines()[-1])
    print(json.dumps({"what": what, "threads": threads, **result}), flush=True)
    return result


def medians(results):
    """The median of every number over the repetitions; nothing where a repetition failed."""
    if not results or None in results:
        return None
    numbers = [key for key, value in results[0].items() if isinstance(value, (int, float))]
    return {key: statistics.median(result[key] for result in results) for key in numbers}


def alternate(programs, threads, repetitions):
    """Every program once, then every program again: drift of the machine meets all alike."""
    results = {what: [] for what in programs}
    for _ in range(repetitions):
        for what, command in programs.items():
            results[what].append(measure(what, threads, command))
    return {what: medians(found) for what, found in results.items()}


def train(options, threads):
    for share in (0.5, 1.0):
        programs = {
            "luthier train": [options.examples / "bench_train", options.model, threads, 4, 256, 6, share],
            "transformers + PEFT train": [sys.executable, HERE / "peers" / "hf_train.py", threads, 4, 256, 6, share],
        }
        ours, peer = alternate(programs, threads, options.repetitions).values()
        summary = {"comparison": "train 4x256 r=8", "threads": threads, "label_share": share, "luthier": ours, "peer": peer}
        if ours and peer:
            summary["times_peer"] = ours["tokens_per_second"] / peer["tokens_per_second"]
        print(json.dumps(summary), flush=True)


def generate(options, threads):
    new, best_of = 64, 3
    for prompt in (16, 512):
        programs = {
            "luthier generate": [options.examples / "bench_generate", options.model, threads, prompt, new, best_of],
            "llama.cpp generate": [
                sys.executable, HERE / "peers" / "llama_cpp_generate.py", options.model, threads, prompt, new, best_of,
            ],
            "transformers generate": [sys.executable, HERE / "peers" / "hf_generate.py", threads, prompt, new, best_of],
        }
        ours, *peers = alternate(programs, threads, options.repetitions).values()
        for name, peer in zip(("llama.cpp", "transformers"), peers, strict=True):
            summary = {"comparison": f"generate {prompt}+{new} against {name}", "threads": threads, "luthier": ours, "peer": peer}
            if ours and peer:
                for rate in ("prefill_tokens_per_second", "decode_tokens_per_second"):
                    summary[f"{rate}_times_peer"] = ours[rate] / peer[rate]
            print(json.dumps(summary), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="SmolLM2-135M-Instruct as GGUF")
    parser.add_argument("--examples", type=Path, default=ROOT / "target" / "release" / "examples")
    parser.add_argument("--threads", default=str(os.cpu_count()), help="comma-separated")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", choices=("train", "generate"))
    options = parser.parse_args()
    for threads in map(int, options.threads.split(",")):
        if options.only != "generate":
            train(options, threads)
        if options.only != "train":
            generate(options, threads)


if __name__ == "__main__":
    main()
