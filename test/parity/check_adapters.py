"""Loads adapters that Luthier trained into PEFT and compares logits: what we write is what PEFT reads.

    LUTHIER_PARITY_OUT=/tmp/adapters cargo test --release -p luthier-core --test parity adapters_trained_here
    python test/parity/check_adapters.py /tmp/adapters

Every folder holds a PEFT adapter over golden/tied/model and `logits` of base and adapter together, by us. Exits with 1 where they differ by more
than 1e-5 of the largest logit, or where PEFT adapts other modules than the file has matrices for.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

GOLDEN = Path(__file__).parent / "golden"


def check(folder):
    ids = json.loads((GOLDEN / "adapters" / folder.name / "expected.json").read_text())["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(GOLDEN / "tied" / "model", attn_implementation="eager", dtype=torch.float32)
    with warnings.catch_warnings():
        # PEFT warns where keys are missing or unknown; to a reader of our files that is an error.
        warnings.simplefilter("error", UserWarning)
        model = PeftModel.from_pretrained(base, folder).eval()
    adapted = {name for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        stored = {key.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for key in file.keys()}
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        with model.disable_adapter():
            effect = float((logits - model(input_ids=torch.tensor([ids])).logits[0]).abs().max())
    ours = load_file(folder / "logits.safetensors")["logits"]
    off, largest = float((logits - ours).abs().max()), float(logits.abs().max())
    good = adapted == stored and off <= 1e-5 * largest and effect > 1e-3 * largest
    print(f"{'ok  ' if good else 'FAIL'} {folder.name}: off by {off:.1e} of {largest:.2f}, effect {effect:.2f}, {len(adapted)} modules")
    if adapted != stored:
        print("     PEFT adapts", sorted(adapted - stored), "too, and not", sorted(stored - adapted))
    return good


if __name__ == "__main__":
    torch.set_num_threads(1)
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/adapter_config.json"))
    if not folders:
        sys.exit(f"no adapters in {sys.argv[1]}; see the head of this file")
    sys.exit(0 if all([check(folder) for folder in folders]) else 1)
