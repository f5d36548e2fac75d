"""Checks that what `luthier models quantize` writes is what transformers and bitsandbytes make of the same model, and that they load it.

    cargo build --release -p luthier-core --example quantize
    python test/parity/check_quantized_ahead.py target/release/examples/quantize

Needs the packages pinned in `requirements.txt`. For each type: every tensor of the file equals bitsandbytes' own, byte for byte (with double
quantization, whose offset is a mean that depends on the order of its sum: nearly all of the codes); the folder loads; and its logits, in f32 on the CPU, are those of the
model that transformers quantized itself. That the engine computes the same from such a folder is a test of its own, over
`golden/bitsandbytes` (`engine/core/tests/files/bitsandbytes.rs`).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from make_bitsandbytes import in_f32, model
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, LlamaForCausalLM

TYPES = {
    "int8": dict(load_in_8bit=True),
    "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "nf4_double_quant": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
}


def logits(folder):
    loaded = LlamaForCausalLM.from_pretrained(folder, device_map="cpu")
    in_f32(loaded)
    # In training, 8-bit weights are multiplied by activations as they are.
    loaded.train()
    for module in loaded.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    ids = torch.randint(3, 96, (1, 12), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return loaded(ids).logits[0].float()


def state(value):
    return json.loads(bytes(value.numpy()))


def compare(kind, ours, theirs):
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    for name, expected in theirs.items():
        found = ours[name]
        if ".quant_state." in name:
            found, expected = state(found), state(expected)
            offsets = [value.pop("nested_offset", 1.0) for value in (found, expected)]
            assert found == expected, (name, found, expected)
            assert abs(offsets[0] / offsets[1] - 1) < 1e-6, (name, offsets)
            continue
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        if kind == "nf4_double_quant" and name.endswith("absmax"):
            differing = (found.float() - expected.float()).abs()
            limit = 1 if found.dtype == torch.uint8 else 1e-5
            assert differing.max() <= limit, (name, differing.max())
            assert (differing > 1e-5).float().mean() < 0.02, (name, differing)
        else:
            assert torch.equal(found, expected), name


def main():
    program = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        base = folder / "base"
        model().save_pretrained(base)
        for kind, options in TYPES.items():
            subprocess.run([program, base, kind, folder / f"ours-{kind}"], check=True)
            quantized = LlamaForCausalLM.from_pretrained(
                base, quantization_config=BitsAndBytesConfig(**options), device_map="cpu"
            )
            quantized.save_pretrained(folder / f"theirs-{kind}")
            ours, theirs = (folder / f"{whose}-{kind}" for whose in ("ours", "theirs"))
            compare(kind, load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors"))
            found, expected = logits(ours), logits(theirs)
            difference = ((found - expected).abs().max() / expected.abs().max()).item()
            print(f"{kind}: logits differ by {difference:.1e} of the largest")
            assert difference <= (1e-3 if kind == "nf4_double_quant" else 1e-6)


if __name__ == "__main__":
    main()
