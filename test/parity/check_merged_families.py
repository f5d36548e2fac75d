"""Compares merged folders of families with fused layers with base and adapter in PEFT, by the oracles of `make_family_goldens.py`.

    LUTHIER_PARITY_OUT=/tmp/merged cargo test --release -p luthier-core --test files fused_layers_are_merged
    python test/parity/check_merged_families.py /tmp/merged

Every folder is called as its case of `golden/families/` and the adapter in it. Its tensors go into the oracle of the family in place of its own; the logits must be those
of base and adapter, but for the rounding of the sums to f16: 1e-2 of what the adapter changes. Exits with 1 where they are not.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

import make_family_goldens as families

LOGITS = {"init_adapter": "adapted", "w_pack_adapter": "w_pack"}


def tensors(folder):
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    return {name: tensor.float() for file in files for name, tensor in load_file(folder / file).items()}


def llama_names(found, oracle):
    """The folder's tensors under the names of the oracle, by position: what `families.baichuan` and `families.chatglm` stack is cut."""
    widths = [oracle.model.layers[0].self_attn.get_submodule(f"{name}_proj").out_features for name in "qkv"]
    named = {}
    for name, tensor in found.items():
        if name.endswith("inv_freq"):
            continue
        for own, llama in [
            ("transformer.embedding.word_embeddings", "model.embed_tokens"), ("transformer.encoder.final_layernorm", "model.norm"),
            ("transformer.output_layer", "lm_head"), ("transformer.encoder.layers", "model.layers"), ("self_attention.dense", "self_attn.o_proj"),
            ("self_attention", "self_attn"), ("query_key_value", "W_pack"), ("dense_h_to_4h", "gate_up_proj"), ("dense_4h_to_h", "down_proj"),
        ]:
            name = name.replace(own, llama)
        if "W_pack" in name:
            named |= {name.replace("W_pack", f"{part}_proj"): rows for part, rows in zip("qkv", tensor.split(widths))}
        else:
            named[name] = tensor
    return named


def check(folder):
    name, adapter = next((folder.name[: -len(kind) - 1], kind) for kind in LOGITS if folder.name.endswith(kind))
    case, golden = families.CASES[name], families.FOLDER / name
    oracle = families.build(case)
    before = json.loads((golden / "model" / "config.json").read_text())
    after = json.loads((folder / "config.json").read_text())
    same = {key: value for key, value in after.items() if "dtype" not in key} == {key: value for key, value in before.items() if "dtype" not in key}
    oracle.load_state_dict(llama_names(tensors(folder), oracle), strict=True)
    expected = load_file(golden / "expected.safetensors")
    pair = expected[LOGITS[adapter]]
    off = float((families.logits(oracle, expected["ids"].long()) - pair).norm())
    effect = float((pair - expected["logits"]).norm())
    good = same and off <= 1e-2 * effect
    print(f"{'ok  ' if good else 'FAIL'} {folder.name}: off by {off:.1e}, where the adapter changes {effect:.2f}{'' if same else '; the configuration differs'}")
    return good


if __name__ == "__main__":
    torch.set_num_threads(1)
    folders = sorted(path for path in Path(sys.argv[1]).iterdir() if path.name.endswith(tuple(LOGITS)))
    if not folders:
        sys.exit(f"no merged folders in {sys.argv[1]}; see the head of this file")
    sys.exit(0 if all([check(folder) for folder in folders]) else 1)
