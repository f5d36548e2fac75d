"""Makes test/parity/golden/adapters/<case>/: PEFT adapters with every setting that says what is adapted, over golden/tied/model.

    python -m pip install -r test/parity/requirements.txt
    python test/parity/make_adapters.py

Every case is a folder as PEFT saves it, with random A and B, and beside it
    expected.json           versions, the ids, and rank and scale of each module that PEFT adapted
    logits.safetensors      `logits` [ids, vocabulary] of base and adapter together; f32, one thread
"""

import json
import shutil
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GOLDEN = Path(__file__).parent / "golden"
IDS = [17, 250, 3, 99, 180, 42, 7, 7, 211, 64, 128]
NAMES = ["q_proj", "v_proj", "gate_proj", "down_proj"]
CASES = {
    "names": dict(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "0.mlp.up_proj"]),
    "all-linear": dict(r=2, lora_alpha=5, target_modules="all-linear"),
    "regex": dict(r=2, lora_alpha=4, target_modules=r"model\.layers\.(?!0\.)\d+\.(self_attn\.[qkv]|mlp\.down)_proj"),
    "regex-rules": dict(
        r=2, lora_alpha=4, target_modules=r".*_proj", rank_pattern={"(gate|up)_proj": 4}, alpha_pattern={r"self_attn\..*": 9},
    ),
    "layers": dict(r=2, lora_alpha=4, target_modules=NAMES, layers_to_transform=[1]),
    "layers-pattern": dict(r=2, lora_alpha=4, target_modules=NAMES, layers_to_transform=0, layers_pattern=["h", "layers"]),
    "exclude": dict(r=2, lora_alpha=4, target_modules=NAMES, exclude_modules=["down_proj", "1.self_attn.v_proj"]),
    "exclude-regex": dict(r=2, lora_alpha=4, target_modules="all-linear", exclude_modules=r".*layers\.0\.mlp.*"),
    "rslora": dict(r=4, lora_alpha=3, target_modules=NAMES, use_rslora=True),
    # Ranks and factors that differ among layers that share an input; a key that is a name, one that is a path, one a regular expression.
    "patterns": dict(
        r=2, lora_alpha=4, target_modules="all-linear",
        rank_pattern={"k_proj": 5, "model.layers.1.mlp.up_proj": 3, r"layers\.0\.mlp\.(up|down)_proj": 1},
        alpha_pattern={"v_proj": 7.5, "model.layers.0.mlp.gate_proj": 1},
    ),
    "rslora-patterns": dict(
        r=2, lora_alpha=4, target_modules=NAMES, use_rslora=True, rank_pattern={"^model.layers.1.self_attn.q_proj": 9},
        alpha_pattern={"gate_proj": 3},
    ),
    "bin": dict(r=3, lora_alpha=6, target_modules=NAMES),
}
# Saved by torch, as PEFT did at first.
OLD_FILES = ["bin"]


def make(name, settings):
    folder = GOLDEN / "adapters" / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(len(name))
    base = AutoModelForCausalLM.from_pretrained(GOLDEN / "tied" / "model", attn_implementation="eager", dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.05)
    model.peft_config["default"].base_model_name_or_path = "luthier/tied"
    model.save_pretrained(folder, safe_serialization=name not in OLD_FILES)
    (folder / "README.md").unlink(missing_ok=True)
    modules = {
        path: {"r": module.r["default"], "scale": module.scaling["default"]}
        for path, module in model.base_model.model.named_modules()
        if hasattr(module, "lora_A")
    }
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([IDS])).logits[0]
    save_file({"logits": logits.contiguous()}, folder / "logits.safetensors")
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    expected = {"versions": versions, "input_ids": IDS, "modules": modules}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(name, len(modules), "modules, largest logit", float(logits.abs().max()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case_name, case_settings in CASES.items():
        make(case_name, case_settings)
