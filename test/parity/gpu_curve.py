"""200 steps of transformers + PEFT (+ bitsandbytes) on a GPU in bf16, and a case that the engine trains beside them.

    python test/parity/gpu_curve.py FOLDER [nf4]
    train_curve FOLDER bf16 stored|nf4_double_quant        # engine/core/examples, feature cuda

Writes FOLDER as the golden cases are laid out (model/, init_adapter/, data.json, expected.json with the losses of this run). The base is bf16, the adapter f32 under
autocast, as Trainer with bf16=True has them. Prints how far the same run with attention computed another way (`eager`) is from it: what rounding alone does.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

STEPS, EXAMPLES, BATCH, RATE = 200, 64, 4, 1e-3
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main():
    folder, four_bit = Path(sys.argv[1]), "nf4" in sys.argv[2:]
    torch.manual_seed(5)
    base = LlamaForCausalLM(LlamaConfig(
        vocab_size=2048, hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4,
        max_position_embeddings=512, rms_norm_eps=1e-5, initializer_range=0.05, tie_word_embeddings=False, dtype=torch.bfloat16,
    )).to(torch.bfloat16)
    base.save_pretrained(folder / "model")
    quantized = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)
    load = lambda attention: AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.bfloat16, device_map={"": 0}, quantization_config=quantized if four_bit else None,
        attn_implementation=attention).requires_grad_(False)
    torch.manual_seed(6)
    model = get_peft_model(load("sdpa"), LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=ALL_LINEAR))
    model.save_pretrained(folder / "init_adapter")

    # Sequences with a rule to learn: each token follows from the one before, with noise.
    generator = torch.Generator().manual_seed(7)
    follows = torch.randperm(2048, generator=generator)
    lengths = torch.randint(40, 161, (EXAMPLES,), generator=generator).tolist()
    examples = []
    for length in lengths:
        ids = [int(torch.randint(0, 2048, (1,), generator=generator))]
        while len(ids) < length:
            noise = torch.rand(1, generator=generator) < 0.2
            ids.append(int(torch.randint(0, 2048, (1,), generator=generator)) if noise else int(follows[ids[-1]]))
        examples.append((ids, [-100] * (length // 4) + ids[length // 4 :]))
    config = dict(
        lora=dict(r=8, lora_alpha=16.0, target_modules=None, use_rslora=False, seed=0), learning_rate=RATE, lr_scheduler_type="constant",
        warmup_steps=0, weight_decay=0.0, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, max_grad_norm=1.0,
        per_device_train_batch_size=BATCH, gradient_accumulation_steps=1, num_train_epochs=100.0, max_steps=STEPS,
        per_device_eval_batch_size=4, eval_steps=None, shuffle=False, data_seed=0)
    split = lambda rows: {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}
    (folder / "data.json").write_text(json.dumps({**split(examples), "eval": split(examples[:1]), "config": config}))

    losses = train(model, examples)
    (folder / "expected.json").write_text(json.dumps({"losses": losses}))
    again = train(PeftModel.from_pretrained(load("eager"), folder / "init_adapter", is_trainable=True), examples)
    apart = [abs(a - b) for a, b in zip(losses, again)]
    print(json.dumps({"peer": "nf4" if four_bit else "bf16", "first": losses[0], "last": losses[-1],
                      "from_itself_mean": sum(apart) / STEPS, "from_itself_most": max(apart)}))


def train(model, examples):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        rows = [examples[(step * BATCH + i) % EXAMPLES] for i in range(BATCH)]
        longest = max(len(ids) for ids, _ in rows)
        pad = lambda values, fill: values + [fill] * (longest - len(values))
        ids = torch.tensor([pad(ids, 0) for ids, _ in rows]).cuda()
        labels = torch.tensor([pad(labels, -100) for _, labels in rows]).cuda()
        mask = torch.tensor([pad([1] * len(ids), 0) for ids, _ in rows]).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


main()
