"""Writes `golden/torch_files/`: what `torch.save` makes of the tiny model of `engine/core/tests/files/support.rs`.

    python test/parity/make_torch_files.py

Needs the packages pinned in `requirements.txt`. The numbers are the tiny model's own (a linear congruential generator), so that no file of expected
values is needed.

    single/   config.json, pytorch_model.bin: a module's state dict in f16
    shards/   config.json, two shards and their index: matrices in bf16, norms in f32
    few/      files of two of the tensors in f32, each written in another way; and what is refused
"""

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy
import torch

FOLDER = Path(__file__).parent / "golden" / "torch_files"
LAYER = {
    "input_layernorm": [32],
    "post_attention_layernorm": [32],
    "self_attn.q_proj": [32, 32],
    "self_attn.k_proj": [16, 32],
    "self_attn.v_proj": [16, 32],
    "self_attn.o_proj": [32, 32],
    "mlp.gate_proj": [64, 32],
    "mlp.up_proj": [64, 32],
    "mlp.down_proj": [32, 64],
}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "bos_token_id": 1,
}


def numbers(count, state):
    """Reproducible numbers in -1 … 1."""
    values = []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append((state >> 8) / 2**23 - 1)
    return numpy.array(values, dtype=numpy.float32)


def tiny_model():
    shapes = {"model.embed_tokens.weight": [96, 32], "model.norm.weight": [32], "lm_head.weight": [96, 32]}
    for layer in range(2):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in LAYER.items()}
    tensors = {}
    for index, (name, shape) in enumerate(shapes.items()):
        values = numbers(int(numpy.prod(shape)), index + 1)
        f32 = numpy.float32
        values = f32(1) + f32(0.2) * values if len(shape) == 1 else f32(0.4) * values
        tensors[name] = torch.from_numpy(values.reshape(shape))
    return tensors


class Module(torch.nn.Module):
    """A module whose state dict has these names."""

    def __init__(self, tensors):
        super().__init__()
        for name, value in tensors.items():
            *path, last = name.split(".")
            owner = self
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.register_parameter(last, torch.nn.Parameter(value))


def write_folder(name, files, index):
    folder = FOLDER / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    for file, tensors in files.items():
        torch.save(tensors, folder / file)
    if index:
        weight_map = {tensor: file for file, tensors in files.items() for tensor in tensors}
        text = json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2)
        (folder / "pytorch_model.bin.index.json").write_text(text + "\n")


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    tensors = tiny_model()
    halves = {name: value.half() for name, value in tensors.items()}
    write_folder("single", {"pytorch_model.bin": Module(halves).state_dict()}, False)
    mixed = {name: value if value.dim() == 1 else value.bfloat16() for name, value in tensors.items()}
    first = {name: value for name, value in mixed.items() if ".layers.0." in name}
    rest = {name: value for name, value in mixed.items() if name not in first}
    write_folder("shards", {"pytorch_model-00001-of-00002.bin": first, "pytorch_model-00002-of-00002.bin": rest}, True)

    few = FOLDER / "few"
    few.mkdir()
    norm, matrix = "model.norm.weight", "model.layers.1.self_attn.v_proj.weight"
    pair = {name: tensors[name] for name in (norm, matrix)}
    save = lambda value, name, **options: torch.save(value, few / f"{name}.bin", **options)
    for protocol in range(2, 6):
        save(OrderedDict(pair), f"protocol-{protocol}", pickle_protocol=protocol)
    parameters = {name: torch.nn.Parameter(value) for name, value in pair.items()}
    parameters[norm].written_by = "the script"
    save(parameters, "parameters")
    storage = torch.cat([torch.zeros(5), pair[matrix].flatten(), pair[norm]])
    views = {matrix: storage[5 : 5 + 16 * 32].view(16, 32), norm: storage[5 + 16 * 32 :]}
    save(views, "one-storage")

    save(pair, "legacy", _use_new_zipfile_serialization=False)
    save({norm: pair[matrix].t()}, "transposed")
    save({norm: pair[norm].double()}, "doubles")
    save({norm: pair[norm].to(torch.float8_e4m3fn)}, "float8")
    save({norm: pair[matrix].to_sparse()}, "sparse")
    save(torch.nn.Linear(2, 2), "whole-model")
    save({"model": pair}, "checkpoint")
    save({**pair, "step": 7}, "optimizer")


if __name__ == "__main__":
    main()
