"""llama.cpp through llama-cpp-python on the CPU, greedy, one stream.

    python llama_cpp_generate.py MODEL.gguf THREADS PROMPT_TOKENS NEW_TOKENS REPETITIONS

Prints one JSON line: the best repetition's prefill and decode rates. Evaluation and argmax only, without llama-cpp-python's sampler
chain and text: what the library itself can do.
"""

import json
import sys
import time

import llama_cpp
import numpy

path = sys.argv[1]
threads, prompt_tokens, new_tokens, repetitions = (int(argument) for argument in sys.argv[2:])
model = llama_cpp.Llama(
    path, n_ctx=prompt_tokens + new_tokens, n_batch=512, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0, verbose=False
)
vocab_size = model.n_vocab()
prompt = [(i * 7919 + 13) % vocab_size for i in range(prompt_tokens)]


def highest():
    logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return int(numpy.ctypeslib.as_array(logits, shape=(vocab_size,)).argmax())


prefill = decode = 0.0
for _ in range(repetitions):
    model.reset()
    start = time.perf_counter()
    model.eval(prompt)
    token = highest()
    prefill = max(prefill, prompt_tokens / (time.perf_counter() - start))
    start = time.perf_counter()
    for _ in range(new_tokens - 1):
        model.eval([token])
        token = highest()
    decode = max(decode, (new_tokens - 1) / (time.perf_counter() - start))
print(json.dumps({"prefill_tokens_per_second": prefill, "decode_tokens_per_second": decode, "version": llama_cpp.__version__}))
