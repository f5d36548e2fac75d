"""Compares a merged model, as transformers loads it, with base and adapter in PEFT.

    luthier adapters merge facts --out /tmp/merged
    python test/parity/check_merged.py BASE ADAPTER MERGED [TOLERANCE]

BASE is a Hugging Face folder or a .gguf file, ADAPTER a PEFT folder, MERGED what was written. Exits with 1 where the logits are further from those
of the pair than TOLERANCE of what the adapter changes (default 0.3). Roundings count more the less the adapter changes:
SmolLM2-135M with a random adapter is off by 0.04 in f16, 0.19 in bf16 and 0.44 in q8_0, which rounds the embedding table, too.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def load(path):
    file = path / "model.gguf" if (path / "model.gguf").exists() else path
    if file.is_file():
        return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def logits(model):
    ids = torch.tensor([[(i * i * 31 + i * 7 + 5) % 250 for i in range(60)]])
    with torch.no_grad():
        return model(input_ids=ids).logits[0]


if __name__ == "__main__":
    base, adapter, merged = map(Path, sys.argv[1:4])
    tolerance = float(sys.argv[4]) if len(sys.argv) > 4 else 0.3
    model = PeftModel.from_pretrained(load(base), adapter).eval()
    pair = logits(model)
    with model.disable_adapter():
        effect = float((pair - logits(model)).norm())
    off = float((pair - logits(load(merged))).norm())
    print(f"off by {off:.4f}, where the adapter changes {effect:.4f}: {off / effect:.4f}")
    sys.exit(0 if off <= tolerance * effect else 1)
