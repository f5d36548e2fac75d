"""Makes test/parity/golden/<case>/: tiny random Llamas and a Mistral, an adapter each, and what transformers' Trainer + PEFT make of them.

    python -m pip install -r test/parity/requirements.txt
    python test/parity/make_goldens.py

Every case holds
    model/                  a Hugging Face folder: config, safetensors, a byte-level tokenizer with a chat template
    init_adapter/           a PEFT folder, the adapter training starts from; B is random, so that A has a gradient at the first step
    data.json               examples, evaluation examples and the training configuration
    grads.safetensors       gradients of the first accumulation group's loss, by PEFT's tensor names, before clipping
    trained_adapter/        the adapter after the run
    expected.json           loss of the first group, the curve, evaluations, greedy tokens with either adapter, versions

Everything is f32 on the CPU with one thread.
"""

import json
import shutil
from pathlib import Path

import accelerate
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Trainer, TrainerCallback, TrainingArguments

from tiny_tokenizer import write_tokenizer

GOLDEN = Path(__file__).parent / "golden"
IGNORED = -100
SHAPE = dict(
    vocab_size=288, hidden_size=48, intermediate_size=112, num_hidden_layers=2, max_position_embeddings=512,
    rms_norm_eps=1e-5, bos_token_id=256, eos_token_id=257, pad_token_id=None, initializer_range=0.2,
    attn_implementation="eager", dtype=torch.float32,
)
CASES = {
    # Grouped heads, tied output layer, every linear layer; odd group at the epoch's end; torch's shuffle.
    "tied": dict(
        seed=11,
        model=dict(num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True, rope_theta=100000.0),
        config=dict(
            lora=dict(r=4, lora_alpha=8.0, target_modules=None, use_rslora=False, seed=0),
            learning_rate=2e-3, lr_scheduler_type="linear", warmup_steps=5, weight_decay=0.01,
            adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, max_grad_norm=1.0,
            per_device_train_batch_size=2, gradient_accumulation_steps=3, num_train_epochs=3.0, max_steps=50,
            per_device_eval_batch_size=3, eval_steps=20, shuffle=True, data_seed=42,
        ),
        examples=22, evaluation=7,
    ),
    # Other head size, own output layer, three targets, rank-stabilised scale; cosine, file order, clipping that always acts.
    "untied": dict(
        seed=12,
        model=dict(num_attention_heads=4, num_key_value_heads=4, head_dim=16, tie_word_embeddings=False, rope_theta=10000.0),
        config=dict(
            lora=dict(r=3, lora_alpha=6.0, target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True, seed=0),
            learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=0, weight_decay=0.0,
            adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, max_grad_norm=0.05,
            per_device_train_batch_size=4, gradient_accumulation_steps=1, num_train_epochs=10.0, max_steps=50,
            per_device_eval_batch_size=4, eval_steps=25, shuffle=False, data_seed=7,
        ),
        examples=18, evaluation=5,
    ),
    # A sliding window that most sequences are longer than; grouped heads, own output layer, every linear layer.
    "sliding": dict(
        seed=13, configuration=MistralConfig,
        model=dict(
            num_attention_heads=6, num_key_value_heads=2, head_dim=8, sliding_window=8, tie_word_embeddings=False, rope_theta=10000.0,
        ),
        config=dict(
            lora=dict(r=4, lora_alpha=8.0, target_modules=None, use_rslora=False, seed=0),
            learning_rate=2e-3, lr_scheduler_type="linear", warmup_steps=5, weight_decay=0.01,
            adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, max_grad_norm=1.0,
            per_device_train_batch_size=3, gradient_accumulation_steps=2, num_train_epochs=20.0, max_steps=50,
            per_device_eval_batch_size=3, eval_steps=25, shuffle=True, data_seed=42,
        ),
        examples=20, evaluation=6,
    ),
}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def example(generator):
    """Random ids; labelled spans at random places, position 0 sometimes labelled (the shift must drop it)."""
    length = int(torch.randint(3, 41, (1,), generator=generator))
    ids = torch.randint(0, 256, (length,), generator=generator)
    labels = torch.where(torch.rand(length, generator=generator) < 0.5, ids, torch.tensor(IGNORED))
    labels[-1] = ids[-1]
    return {"input_ids": ids.tolist(), "labels": labels.tolist()}


def collate(examples):
    longest = max(len(e["input_ids"]) for e in examples)
    pad = lambda values, fill: values + [fill] * (longest - len(values))
    return {
        "input_ids": torch.tensor([pad(e["input_ids"], 0) for e in examples]),
        "labels": torch.tensor([pad(e["labels"], IGNORED) for e in examples]),
        "attention_mask": torch.tensor([pad([1] * len(e["input_ids"]), 0) for e in examples]),
    }


def label_count(batch):
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def summed_loss(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


class Recorder(TrainerCallback):
    """Loss, gradient norm and the learning rate a step used; the Trainer's own figures wherever it gives them unrounded."""

    def __init__(self):
        self.curve, self.evaluations, self.rate = [], [], None

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rate = optimizer.param_groups[0]["lr"]

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.curve[-1]["grad_norm"] = float(logs["grad_norm"])

    def on_step_end(self, args, state, control, **kwargs):
        loss, self.trainer.group_loss = self.trainer.group_loss, 0.0
        self.curve.append({"loss": loss, "grad_norm": None, "learning_rate": self.rate})


class RecordingTrainer(Trainer):
    group_loss = 0.0
    first_group = ()

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.state.global_step == 0:
            self.first_group = (*self.first_group, inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.group_loss += float(loss)
        return loss


def evaluate(model, examples, batch_size):
    """Token-weighted mean, and the Trainer's mean over examples of their batch's mean."""
    model.eval()
    total, tokens, weighted = 0.0, 0, 0.0
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            batch = collate(examples[start : start + batch_size])
            loss, count = float(summed_loss(model, batch).double()), label_count(batch)
            total, tokens = total + loss, tokens + count
            weighted += loss / count * len(examples[start : start + batch_size])
    return {"loss": total / tokens, "trainer_loss": weighted / len(examples), "label_tokens": tokens}


def greedy(model, prompt, count):
    """Greedy tokens without an end token, and the smallest gap between the two highest logits (a measure of how safe equality is)."""
    model.eval()
    ids, gap = list(prompt), float("inf")
    with torch.no_grad():
        for _ in range(count):
            top = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
            gap = min(gap, float(top.values[0] - top.values[1]))
            ids.append(int(top.indices[0]))
    return {"prompt": list(prompt), "tokens": ids[len(prompt) :], "smallest_gap": gap}


def make(name, case):
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config, generator = case["config"], torch.Generator().manual_seed(case["seed"])
    torch.manual_seed(case["seed"])
    base = AutoModelForCausalLM.from_config(case.get("configuration", LlamaConfig)(**SHAPE, **case["model"]))
    base.generation_config.eos_token_id = [257, 259]
    base.save_pretrained(folder / "model")
    write_tokenizer(folder / "model", SHAPE["vocab_size"])

    lora = config["lora"]
    settings = LoraConfig(
        r=lora["r"], lora_alpha=lora["lora_alpha"], use_rslora=lora["use_rslora"], lora_dropout=0.0, task_type="CAUSAL_LM",
        target_modules=lora["target_modules"] or ALL_LINEAR,
    )
    model = get_peft_model(base, settings)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.05)
    model.peft_config["default"].base_model_name_or_path = f"luthier/{name}"
    model.save_pretrained(folder / "init_adapter")

    train = [example(generator) for _ in range(case["examples"])]
    evaluation = [example(generator) for _ in range(case["evaluation"])]
    prompt = torch.randint(0, 256, (9,), generator=generator).tolist()
    greedy_initial = greedy(model, prompt, 32)

    arguments = TrainingArguments(
        output_dir="/tmp/luthier-goldens", use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        optim="adamw_torch", remove_unused_columns=False, dataloader_pin_memory=False,
        train_sampling_strategy="random" if config["shuffle"] else "sequential",
        learning_rate=config["learning_rate"], lr_scheduler_type=config["lr_scheduler_type"], warmup_steps=config["warmup_steps"],
        weight_decay=config["weight_decay"], adam_beta1=config["adam_beta1"], adam_beta2=config["adam_beta2"],
        adam_epsilon=config["adam_epsilon"], max_grad_norm=config["max_grad_norm"],
        per_device_train_batch_size=config["per_device_train_batch_size"],
        gradient_accumulation_steps=config["gradient_accumulation_steps"], num_train_epochs=config["num_train_epochs"],
        max_steps=config["max_steps"], per_device_eval_batch_size=config["per_device_eval_batch_size"],
        data_seed=config["data_seed"], seed=1,
    )
    recorder = Recorder()

    class Evaluations(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.add(0)

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % config["eval_steps"] == 0 or state.global_step == config["max_steps"]:
                self.add(state.global_step)

        def add(self, step):
            result = evaluate(model, evaluation, config["per_device_eval_batch_size"])
            recorder.evaluations.append({"global_step": step, **result})
            model.train()

    trainer = RecordingTrainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=evaluation, data_collator=collate,
        callbacks=[recorder, Evaluations()],
    )
    recorder.trainer = trainer
    trainer.train()
    official = trainer.evaluate()["eval_loss"]
    last = recorder.evaluations[-1]["trainer_loss"]
    assert abs(official - last) < 1e-5 * last, (official, last)
    assert all(step["grad_norm"] is not None for step in recorder.curve)
    model.save_pretrained(folder / "trained_adapter")
    greedy_trained = greedy(model, prompt, 32)

    fresh = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager", dtype=torch.float32)
    fresh = PeftModel.from_pretrained(fresh, folder / "init_adapter", is_trainable=True)
    labels = sum(label_count(batch) for batch in trainer.first_group)
    loss = sum(summed_loss(fresh, batch) for batch in trainer.first_group) / labels
    loss.backward()
    grads = {k.replace(".default", ""): p.grad.contiguous() for k, p in fresh.named_parameters() if p.grad is not None}
    save_file(grads, folder / "grads.safetensors")

    data = {
        "input_ids": [e["input_ids"] for e in train], "labels": [e["labels"] for e in train],
        "eval": {"input_ids": [e["input_ids"] for e in evaluation], "labels": [e["labels"] for e in evaluation]},
        "config": config,
    }
    (folder / "data.json").write_text(json.dumps(data) + "\n")
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft, accelerate)}
    expected = {
        "versions": versions, "loss": float(loss), "label_tokens": labels, "curve": recorder.curve,
        "evaluations": recorder.evaluations, "greedy": greedy_initial, "greedy_trained": greedy_trained,
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for card in folder.glob("*/README.md"):
        card.unlink()
    print(name, "loss", recorder.curve[0]["loss"], "→", recorder.curve[-1]["loss"], "eval", recorder.evaluations,
          "gaps", greedy_initial["smallest_gap"], greedy_trained["smallest_gap"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case_name, case_settings in CASES.items():
        make(case_name, case_settings)
