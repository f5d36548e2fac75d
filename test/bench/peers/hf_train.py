"""transformers + PEFT on the CPU, SmolLM2-135M's shape, f32, LoRA r=8 on all seven linear layers.

    python hf_train.py THREADS BATCH SEQ STEPS LABEL_SHARE

Prints one JSON line with the names of `bench_train`: the median rate after the first step, and the process's peak memory.
"""

import json
import resource
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

threads, batch, seq, steps = (int(argument) for argument in sys.argv[1:5])
label_share = float(sys.argv[5])
torch.set_num_threads(threads)
torch.manual_seed(0)
shape = dict(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True, rope_theta=1e5, rms_norm_eps=1e-5,
)
linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = LlamaForCausalLM(LlamaConfig(**shape))
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=linear)).train()
parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=3e-4)
ids = torch.randint(0, shape["vocab_size"], (batch, seq))
labels = ids.clone()
labels[:, : round(seq * (1 - label_share))] = -100
seconds = []
for _ in range(steps):
    start = time.perf_counter()
    model(input_ids=ids, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - start)
median = statistics.median(seconds[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"tokens_per_second": batch * seq / median, "seconds_per_step": median, "peak_rss_bytes": peak}))
