"""Loads adapters of fused layers, which Luthier joined from parts that it trained apart, into PEFT and compares logits.

    LUTHIER_PARITY_OUT=/tmp/joined cargo test --release -p luthier-core --test parity parts_trained_apart
    python test/parity/check_fused_adapters.py /tmp/joined

Every folder is called as its case of `golden/families/` and holds a PEFT adapter and `logits` of base and adapter together, by us. The base in PEFT has one
real layer W_pack in each block. Exits with 1 where logits differ by more than 1e-5 of the largest, or where W_pack is not what PEFT adapts.
"""

import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file

import make_family_goldens as families


def check(folder):
    case = families.CASES[folder.name]
    base = families.with_w_pack(families.build(case))
    with warnings.catch_warnings():
        # PEFT warns where keys are missing or unknown; to a reader of our files that is an error.
        warnings.simplefilter("error", UserWarning)
        model = PeftModel.from_pretrained(base, folder).eval()
    adapted = [name for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")]
    packed = [name for name in adapted if name.endswith("W_pack")]
    ids = load_file(families.FOLDER / folder.name / "expected.safetensors")["ids"]
    logits = families.logits(model, ids)[0]
    with model.disable_adapter():
        effect = float((logits - families.logits(model, ids)[0]).abs().max())
    ours = load_file(folder / "logits.safetensors")["logits"]
    off, largest = float((logits - ours).abs().max()), float(logits.abs().max())
    good = len(packed) == case["model"].get("num_hidden_layers", 2) and off <= 1e-5 * largest and effect > 1e-2 * largest
    ranks = {model.base_model.model.get_submodule(name).r["default"] for name in packed}
    print(f"{'ok  ' if good else 'FAIL'} {folder.name}: off by {off:.1e} of {largest:.2f}, effect {effect:.2f}, W_pack of rank {ranks}")
    return good


if __name__ == "__main__":
    torch.set_num_threads(1)
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/adapter_config.json"))
    if not folders:
        sys.exit(f"no adapters in {sys.argv[1]}; see the head of this file")
    sys.exit(0 if all([check(folder) for folder in folders]) else 1)
