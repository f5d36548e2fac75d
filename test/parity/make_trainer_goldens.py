"""Makes test/parity/golden/trainer/<case>.json: what one setting of transformers' Trainer does to a run, each beside the others; and
golden/adamw_8bit.safetensors.

    python -m pip install -r test/parity/requirements.txt
    python test/parity/make_trainer_goldens.py [case ...]

Model, examples and the adapter training starts from are those of test/parity/golden/tied, which make_goldens.py makes. A file holds

    config       settings other than SETTINGS, by TrainingArguments' names; `lora`: a new adapter, drawn by PEFT from the seed
    curve        of each step: loss, gradient norm before clipping, learning rate
    evaluations  where there are any: step, Trainer's eval_loss; best_global_step, and where early stopping ended the run
    versions

Everything is f32 on the CPU with one thread.
"""

import json
import sys

import accelerate
import bitsandbytes
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from bitsandbytes.backends.cpu import ops as bitsandbytes_cpu
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, TrainerCallback, TrainingArguments

from make_goldens import ALL_LINEAR, GOLDEN, Recorder, RecordingTrainer, collate

# torch.manual_seed before PEFT draws the adapter, Trainer's seed, and with it that of the data order.
SEED = 42
SETTINGS = dict(
    learning_rate=2e-3, lr_scheduler_type="linear", lr_scheduler_kwargs={}, warmup_steps=0, optim="adamw_torch", weight_decay=0.0,
    adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, max_grad_norm=1.0, per_device_train_batch_size=4,
    gradient_accumulation_steps=1, num_train_epochs=3.0, max_steps=50, per_device_eval_batch_size=3, label_smoothing_factor=0.0,
)
# What is no argument of TrainingArguments. `seen`: so many training examples stand before the evaluation examples, so that learning shows.
OWN = ("lora", "loss_normalization", "loraplus_lr_ratio", "early_stopping_patience", "early_stopping_threshold", "seen")


def schedule(name, warmup_steps, **kwargs):
    return dict(lr_scheduler_type=name, warmup_steps=warmup_steps, lr_scheduler_kwargs=kwargs)


CASES = {
    "linear": schedule("linear", 0.13),
    "cosine": schedule("cosine", 7),
    "cosine_cycles": schedule("cosine", 0, num_cycles=1.25),
    "cosine_with_restarts": schedule("cosine_with_restarts", 7, num_cycles=3),
    "cosine_with_min_lr": schedule("cosine_with_min_lr", 7, min_lr=2e-4),
    "cosine_warmup_with_min_lr": schedule("cosine_warmup_with_min_lr", 7, min_lr_rate=0.1, warmup_lr_rate=0.05),
    "constant": schedule("constant", 0),
    "constant_with_warmup": schedule("constant_with_warmup", 7),
    "polynomial": schedule("polynomial", 7, lr_end=1e-5, power=2.0),
    "inverse_sqrt": schedule("inverse_sqrt", 7),
    "inverse_sqrt_timescale": schedule("inverse_sqrt", 0, timescale=20),
    "warmup_stable_decay": schedule("warmup_stable_decay", 7, num_decay_steps=15, min_lr_ratio=0.1),
    "warmup_stable_decay_shapes": schedule(
        "warmup_stable_decay", 7, num_decay_steps=15, num_stable_steps=20, warmup_type="cosine", decay_type="1-sqrt"
    ),
    # 22 examples one by one: five groups of four and one of two in each epoch.
    "accumulation": dict(per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=-1),
    "microbatch_mean": dict(per_device_train_batch_size=3, gradient_accumulation_steps=3, loss_normalization="microbatch_mean"),
    "weight_decay": dict(weight_decay=0.1),
    "clip": dict(max_grad_norm=0.3),
    "no_clip": dict(max_grad_norm=0.0),
    "betas": dict(adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-4),
    "label_smoothing": dict(label_smoothing_factor=0.1, per_device_train_batch_size=3, gradient_accumulation_steps=3),
    "label_smoothing_microbatch_mean": dict(
        label_smoothing_factor=0.1, per_device_train_batch_size=3, gradient_accumulation_steps=3,
        loss_normalization="microbatch_mean",
    ),
    "seed": dict(lora=dict(r=4, lora_alpha=8.0, use_rslora=False)),
    "rslora": dict(lora=dict(r=4, lora_alpha=8.0, use_rslora=True)),
    "loraplus": dict(loraplus_lr_ratio=4.0, learning_rate=5e-4, weight_decay=0.05),
    # Of rank 40 some matrices have 4096 numbers and more, and so moments in 8 bits; the others have theirs in 32.
    "adamw_8bit": dict(optim="adamw_8bit", weight_decay=0.05, lora=dict(r=40, lora_alpha=40.0, use_rslora=False)),
    "adamw_8bit_loraplus": dict(
        optim="adamw_8bit", loraplus_lr_ratio=4.0, learning_rate=5e-4, lora=dict(r=40, lora_alpha=40.0, use_rslora=False)
    ),
    # Batches of three: Trainer's mean of means is not the mean per token. The best comes neither first nor last.
    "best_model": dict(eval_strategy="steps", eval_steps=5, load_best_model_at_end=True, seen=1),
    "best_model_epochs": dict(
        eval_strategy="epoch", eval_steps=None, load_best_model_at_end=True, label_smoothing_factor=0.1, seen=1
    ),
    # Always better, but twice by less than the threshold.
    "early_stopping": dict(
        eval_strategy="steps", eval_steps=3, load_best_model_at_end=True, early_stopping_patience=2,
        early_stopping_threshold=0.0083, seen=2,
    ),
}


def nearest_codes(values, code, absmax, out, blocksize):
    """bitsandbytes' library for the processor looks codes up by 16 bits of a number. Its PyTorch code, which takes what is not f32, finds the
    nearest code, as its CUDA kernels do: that is what is wanted."""
    codes, largest = torch.ops.bitsandbytes.quantize_blockwise(values.double(), code, blocksize)
    out.copy_(codes)
    absmax.copy_(largest)


def make_adamw_8bit():
    """golden/adamw_8bit.safetensors: six updates of 700 numbers, of which a block has no gradient at first; the moments after the last."""
    generator = torch.Generator().manual_seed(3)
    gradients = torch.randn(6, 700, generator=generator) * torch.logspace(-4, 0, 700)
    gradients[:2, 256:512] = 0
    parameter = torch.nn.Parameter(torch.randn(700, generator=generator))
    found = {"start": parameter.detach().clone(), "gradients": gradients}
    optimizer = bitsandbytes.optim.AdamW8bit([parameter], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, min_8bit_size=1)
    after = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        after.append(parameter.detach().clone())
    state = optimizer.state[parameter]
    names = {"state1": "first_codes", "state2": "second_codes", "absmax1": "first_scales", "absmax2": "second_scales"}
    found |= {"after": torch.stack(after), "unsigned_dynamic_map": state["qmap2"].clone()}
    save_file(found | {to: state[name].clone() for name, to in names.items()}, GOLDEN / "adamw_8bit.safetensors")


class Evaluations(TrainerCallback):
    def __init__(self):
        self.found = []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.found.append([state.global_step, metrics["eval_loss"]])


def load(case, data):
    folder = GOLDEN / "tied"
    base = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager", dtype=torch.float32)
    if "lora" not in case:
        return PeftModel.from_pretrained(base, folder / "init_adapter", is_trainable=True)
    torch.manual_seed(SEED)
    return get_peft_model(base, LoraConfig(**case["lora"], target_modules=ALL_LINEAR, task_type="CAUSAL_LM"))


def make(name, case):
    data = json.loads((GOLDEN / "tied" / "data.json").read_text())
    rows = lambda part: [{"input_ids": i, "labels": l} for i, l in zip(part["input_ids"], part["labels"])]
    model, settings = load(case, data), {**SETTINGS, **case}
    for own in OWN:
        settings.pop(own, None)
    evaluated = settings.get("eval_strategy", "no")
    train = rows(data)
    held_out = train[: case.get("seen", 0)] + rows(data["eval"])
    arguments = TrainingArguments(
        output_dir="/tmp/luthier-goldens", use_cpu=True, report_to=[], logging_steps=1, disable_tqdm=True, seed=SEED,
        remove_unused_columns=False, dataloader_pin_memory=False, save_strategy=evaluated,
        save_steps=settings.get("eval_steps") or 500, **settings,
    )
    recorder, evaluations = Recorder(), Evaluations()
    callbacks = [recorder, evaluations]
    if "early_stopping_patience" in case:
        callbacks.append(EarlyStoppingCallback(case["early_stopping_patience"], case["early_stopping_threshold"]))
    optimizer = None
    if "loraplus_lr_ratio" in case:
        betas = (settings["adam_beta1"], settings["adam_beta2"])
        kind = bitsandbytes.optim.AdamW8bit if settings["optim"] == "adamw_8bit" else torch.optim.AdamW
        optimizer = create_loraplus_optimizer(
            model, kind, lr=settings["learning_rate"], loraplus_lr_ratio=case["loraplus_lr_ratio"], betas=betas,
            eps=settings["adam_epsilon"], loraplus_weight_decay=settings["weight_decay"],
        )
    trainer = RecordingTrainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=held_out, data_collator=collate,
        callbacks=callbacks, optimizers=(optimizer, None),
    )
    recorder.trainer = trainer
    if case.get("loss_normalization") == "microbatch_mean":
        # As of a model whose forward takes no keyword arguments, such as Baichuan's.
        trainer.model_accepts_loss_kwargs = False
    # Every matrix of an adapter decays.
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and trained <= set(trainer.get_decay_parameter_names(model))
    trainer.train()
    curve = [[step["loss"], step["grad_norm"], step["learning_rate"]] for step in recorder.curve]
    assert all(None not in step for step in curve)
    found = {"config": case, "curve": curve}
    if evaluated != "no":
        state = trainer.state
        found |= {"evaluations": evaluations.found, "best_global_step": state.best_global_step, "global_step": state.global_step}
    found["versions"] = {m.__name__: m.__version__ for m in (torch, transformers, peft, accelerate, bitsandbytes)}
    folder = GOLDEN / "trainer"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found) + "\n")
    print(name, len(curve), curve[0], curve[-1], found.get("best_global_step"), found.get("evaluations"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    bitsandbytes_cpu._quant_blockwise_fp32_direct = nearest_codes
    make_adamw_8bit()
    for case_name in sys.argv[1:] or CASES:
        make(case_name, CASES[case_name])
