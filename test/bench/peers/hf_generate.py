"""transformers' `generate` on the CPU, SmolLM2-135M's shape, f32, greedy, one stream.

    python hf_generate.py THREADS PROMPT_TOKENS NEW_TOKENS REPETITIONS

Prints one JSON line: the best repetition's prefill and decode rates.
"""

import json
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

threads, prompt_tokens, new_tokens, repetitions = (int(argument) for argument in sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
shape = dict(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True, rope_theta=1e5, rms_norm_eps=1e-5,
)
model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
prompt = torch.randint(0, shape["vocab_size"], (1, prompt_tokens))


def seconds(count):
    start = time.perf_counter()
    model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
    return time.perf_counter() - start


with torch.inference_mode():
    seconds(2)
    first = min(seconds(1) for _ in range(repetitions))
    whole = min(seconds(new_tokens) for _ in range(repetitions))
rates = {"prefill_tokens_per_second": prompt_tokens / first, "decode_tokens_per_second": (new_tokens - 1) / (whole - first)}
print(json.dumps(rates))
