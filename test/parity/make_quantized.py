"""Writes `golden/quantized.safetensors`: weights, and what bitsandbytes makes of them on the CPU.

    python test/parity/make_quantized.py

Needs the packages pinned in `requirements.txt`. Everything is f32 where nothing else is said.

For each case of NF4 and int8:
    CASE.weight              [rows, columns]
    CASE.packed              u8 [ceil(n / 2)]: two codes a byte, the earlier one in the high half
    CASE.absmax              [ceil(n / 64)]
    CASE.nf4                 [rows, columns]: dequantized, without double quantization
    CASE.nested_codes        u8 [ceil(n / 64)], CASE.nested_absmax [ceil(n / 64 / 256)], CASE.nested_offset [1]
    CASE.nested_scales       [ceil(n / 64)]: absmax from its 8-bit codes
    CASE.nf4_nested          [rows, columns]: dequantized with those
    CASE.int8                i8 [rows, columns], CASE.int8_absmax [rows]; absent for rows that bitsandbytes cannot hold (all zero, or beyond f16)
    CASE.int8_dequantized    [rows, columns]: as `MatMul8bitFp` multiplies with, on an f32 input

Absmax values alone, for double quantization over several blocks of 256: `many.absmax` and the `many.nested_…` above.
`dynamic_map` is the signed 8-bit code book.

8-bit codes come from bitsandbytes' kernel in PyTorch operations, which finds the nearest code. Its compiled CPU library first rounds each value
to a grid of 65536 steps, and so misses the nearest code now and then; the script prints how often.
"""

from pathlib import Path

import bitsandbytes
import bitsandbytes.functional as F
import torch
from bitsandbytes.autograd._functions import MatMul8bitFp, MatmulLtState
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent / "golden"
BLOCK = 64
NESTED_BLOCK = 256
NF4 = F.get_4bit_type("nf4", device="cpu")


def neighbours(value):
    """The value, and the f32 numbers just below and above it."""
    up, down = torch.tensor(float("inf")), torch.tensor(float("-inf"))
    return [value, torch.nextafter(value, up), torch.nextafter(value, down)]


def midpoint_block(absmax):
    """A block of `absmax` and every decision point of NF4, scaled to it, with its neighbours."""
    absmax = torch.tensor(absmax)
    points = [point for midpoint in (NF4[:-1] + NF4[1:]) / 2 for point in neighbours(midpoint * absmax)]
    block = torch.zeros(BLOCK)
    block[: 1 + len(points)] = torch.stack([absmax, *points])
    return block


def cases():
    generator = torch.Generator().manual_seed(3)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    spread = normal(8, 192) * 10.0 ** torch.randint(-4, 4, (8, 192), generator=generator)
    constants = torch.cat([torch.full((1, BLOCK), value) for value in (0.0, -0.0, 1.0, -2.5, 1e-3)])
    outliers = normal(4, 128) * 0.02
    outliers[0, 5], outliers[1, 77], outliers[3, 0] = 30.0, -60.0, 5.0
    tiny = torch.stack([normal(BLOCK) * scale for scale in (1e-37, 1e-38, 1e-39, 1e-42, 1e-44)])
    # The sum of two scales must not overflow.
    huge = normal(2, BLOCK).clamp(-3, 3) * 4e37
    midpoints = torch.stack([midpoint_block(absmax) for absmax in (1.0, 0.37, 3.7e-5, 1234.567)])
    # Halves of the largest magnitude: whether 63.5 is rounded up or down shows how 127 / absmax was computed.
    other = torch.Generator().manual_seed(8)
    largest = (torch.rand(32, 1, generator=other) + 0.1).to(torch.bfloat16).float()
    halves = torch.cat([largest, -largest / 2, largest / 4, torch.randn(32, 3, generator=other) * 0.05], dim=1)
    return {
        "halves": halves,
        "random": normal(24, 192) * 0.05,
        "spread": spread,
        "constants": constants,
        "outliers": outliers,
        "tiny": tiny,
        "huge": huge,
        "midpoints": midpoints,
        # Blocks run over the flattened matrix: here across the ends of rows, with a last one of 16, of 1 and of 63 numbers.
        "crossing": normal(21, 48) * 0.1,
        "last_is_one": normal(5, 13) * 0.1,
        "odd": normal(3, 21),
        # bitsandbytes stores the absmax of a last, partial block of zeros as 1e-38.
        "partial_zero": torch.cat([normal(BLOCK), torch.zeros(7)]).reshape(1, -1),
    }


def nested(absmax):
    """Double quantization, as `quantize_4bit(compress_statistics=True)` does it, with the nearest codes."""
    offset = absmax.mean()
    code = F.create_dynamic_map(signed=True)
    quantize = torch.ops.bitsandbytes.quantize_blockwise.default
    nearest = torch._C.DispatchKey.CompositeExplicitAutograd
    codes, nested_absmax = quantize._op_dk(nearest, absmax - offset, code, NESTED_BLOCK)
    compiled, _ = quantize(absmax - offset, code, NESTED_BLOCK)
    scales = torch.ops.bitsandbytes.dequantize_blockwise.default(codes, nested_absmax, code, NESTED_BLOCK, torch.float32) + offset
    found = {"nested_codes": codes, "nested_absmax": nested_absmax, "nested_offset": offset.reshape(1), "nested_scales": scales}
    return found, (codes != compiled).sum().item()


def nf4(weight):
    packed, state = F.quantize_4bit(weight, quant_type="nf4", blocksize=BLOCK)
    extra, differing = nested(state.absmax)
    scales = extra["nested_scales"]
    dequantize = lambda absmax: torch.ops.bitsandbytes.dequantize_4bit.default(packed, absmax, BLOCK, "nf4", weight.shape, torch.float32)
    found = {"packed": packed.flatten(), "absmax": state.absmax, "nf4": dequantize(state.absmax), "nf4_nested": dequantize(scales), **extra}
    return found, differing


def int8(weight):
    half = weight.to(torch.float16)
    if not half.isfinite().all() or (half == 0).all(dim=1).any():
        return {}
    codes, absmax, _ = F.int8_vectorwise_quant(half)
    state = MatmulLtState()
    state.CB, state.SCB, state.has_fp16_weights = codes, absmax, False
    columns = weight.shape[1]
    # The products with the unit vectors are the weight itself.
    dequantized = MatMul8bitFp.apply(torch.eye(columns), codes, None, None, state).T.contiguous()
    return {"int8": codes, "int8_absmax": absmax, "int8_dequantized": dequantized}


def main():
    torch.set_num_threads(1)
    tensors = {"dynamic_map": F.create_dynamic_map(signed=True)}
    total = differing = 0
    for name, weight in cases().items():
        found, wrong = nf4(weight)
        differing, total = differing + wrong, total + found["absmax"].numel()
        parts = {"weight": weight, **found, **int8(weight)}
        tensors |= {f"{name}.{part}": value.contiguous() for part, value in parts.items()}
    absmax = torch.rand(700, generator=torch.Generator().manual_seed(4)) * 0.2
    # A whole block of equal values, and a wide range in the last one.
    absmax[256:512] = 0.125
    absmax[600:] *= torch.logspace(-6, 2, 100)
    found, wrong = nested(absmax)
    differing, total = differing + wrong, total + absmax.numel()
    tensors |= {"many.absmax": absmax} | {f"many.{part}": value for part, value in found.items()}
    metadata = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__}
    save_file(tensors, GOLDEN / "quantized.safetensors", metadata=metadata)
    print(f"bitsandbytes' compiled library misses the nearest 8-bit code in {differing} of {total} values")


if __name__ == "__main__":
    main()
