"""Writes `golden/bitsandbytes/`: a tiny model as transformers and bitsandbytes save it in 4 and 8 bits, and what they compute from it, on the CPU.

    python test/parity/make_bitsandbytes.py

Needs the packages pinned in `requirements.txt`. Each folder has config.json, model.safetensors and expected.safetensors:

    input_ids    [positions]
    logits       f32 [positions, vocabulary], computed in f32 (8 bits: with weights alone quantized, as bitsandbytes trains on the CPU)
    NAME         f32 [6, columns]: the last rows of the matrix NAME, dequantized

    nf4          blocks that cross rows, a last partial one; codes seen as bf16 (`bnb_4bit_quant_storage`)
    nf4-double   with double quantization, over several blocks of 256
    int8         with `llm_int8_skip_modules`: v_proj stays in bf16, the output layer does not
    fp4          what transformers takes where nothing else is said
    fp4-double   with double quantization
"""

import shutil
import tempfile
from pathlib import Path

import torch
from bitsandbytes import functional as F
from bitsandbytes.autograd._functions import MatMul8bitFp, MatmulLtState
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parent / "golden" / "bitsandbytes"
CASES = {
    "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_quant_storage=torch.bfloat16),
    "nf4-double": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "int8": dict(load_in_8bit=True, llm_int8_skip_modules=["v_proj"]),
    "fp4": dict(load_in_4bit=True),
    "fp4-double": dict(load_in_4bit=True, bnb_4bit_use_double_quant=True),
}
SHOWN = ["model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj"]


def model():
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=40,
        intermediate_size=456,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
        eos_token_id=2,
        bos_token_id=1,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def in_f32(model):
    """Casts what is not quantized, so that activations are f32: `dtype` does not for a quantized checkpoint."""
    for parameter in model.parameters():
        if type(parameter) is torch.nn.Parameter:
            parameter.data = parameter.data.float()


def dequantized(module):
    if isinstance(module, Linear4bit):
        state = module.weight.quant_state
        state.dtype = torch.float32
        return F.dequantize_4bit(module.weight.data, state)
    # The forward pass moved the codes here.
    codes, scales = module.state.CB, module.state.SCB
    state = MatmulLtState()
    state.CB, state.SCB, state.has_fp16_weights = codes, scales, False
    # The products with the unit vectors are the weight itself.
    return MatMul8bitFp.apply(torch.eye(codes.shape[1]), codes, None, None, state).T.contiguous()


def main():
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as plain:
        model().save_pretrained(plain)
        for name, options in CASES.items():
            folder = FOLDER / name
            quantization = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **options)
            source = LlamaForCausalLM.from_pretrained(plain, quantization_config=quantization, device_map="cpu")
            source.save_pretrained(folder)
            (folder / "generation_config.json").unlink(missing_ok=True)
            loaded = LlamaForCausalLM.from_pretrained(folder, device_map="cpu")
            in_f32(loaded)
            # In training, 8-bit weights are multiplied by activations as they are.
            loaded.train()
            ids = torch.randint(3, 96, (1, 12), generator=torch.Generator().manual_seed(5))
            with torch.no_grad():
                logits = loaded(ids).logits[0]
            expected = {"input_ids": ids[0], "logits": logits.float()}
            shown = {module: loaded.get_submodule(module) for module in SHOWN}
            assert all(isinstance(module, Linear4bit | Linear8bitLt) for module in shown.values())
            expected |= {f"{module}.weight": dequantized(found)[-6:] for module, found in shown.items()}
            save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
