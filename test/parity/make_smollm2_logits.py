"""Writes golden/smollm2/logits.safetensors: what transformers computes from the demo's GGUF file.

    python test/parity/make_smollm2_logits.py ~/.cache/luthier/SmolLM2-135M-Instruct.Q4_1.gguf

transformers dequantizes the file's weights to f32; the forward pass then runs in f64 (rope's angles stay f32, as transformers
computes them), because its own f32 logits are up to 9.3e-5 away from that: as much as the bound of the test. Kept of each position: the
256 highest logits, 256 at random ids, and the log-sum-exp over the whole vocabulary. Versions: requirements.txt, gguf 0.19.0.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = (
    "<|im_start|>user\nWhat is LoRA, and why does it need so little memory? 你好 🙂<|im_end|>\n"
    "<|im_start|>assistant\nLoRA is short for low-rank adaptation. It freezes"
)


def main(path: Path):
    torch.set_num_threads(1)
    ids = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)(TEXT, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        single = model(ids).logits[0].double()
        logits = model.double()(ids).logits[0]
    print("positions", len(logits), "largest logit", float(logits.abs().max()), "f32 differs by", float((single - logits).abs().max()))
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(0, logits.shape[1], (len(logits), 256), generator=generator)
    columns = torch.cat([logits.topk(256).indices, random], dim=1)
    folder = Path(__file__).parent / "golden" / "smollm2"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "input_ids": ids[0].to(torch.int32), "token_ids": columns.to(torch.int32),
        "logits": logits.gather(1, columns).contiguous(), "log_sum_exp": logits.logsumexp(1),
    }
    save_file(tensors, folder / "logits.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
