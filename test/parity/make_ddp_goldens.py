"""Makes test/parity/golden/ddp/<case>.json: runs of transformers' Trainer under DistributedDataParallel, one process a rank, over gloo.

    python -m pip install -r test/parity/requirements.txt
    python test/parity/make_ddp_goldens.py [case ...]

Model, examples and the adapter training starts from are those of test/parity/golden/tied, which make_goldens.py makes. A file holds

    world_size   ranks
    config       settings other than make_trainer_goldens.py's SETTINGS, by TrainingArguments' names
    curve        of each step: loss (the mean over ranks, as Trainer logs it), gradient norm before clipping, learning rate
    evaluations  step, Trainer's eval_loss
    order        of the first two epochs: which examples each rank takes, micro-batch by micro-batch
    versions

Everything is f32 on the CPU with one thread a rank.
"""

import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import accelerate
import peft
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers
from transformers import TrainingArguments

from make_goldens import GOLDEN, Recorder, RecordingTrainer, collate
from make_trainer_goldens import OWN, SEED, SETTINGS, Evaluations, load

# 22 examples; 7 evaluation examples after `seen` training examples.
CASES = {
    # 11 batches: the sixth round of two is completed from the epoch's beginning. Three rounds a step.
    "two_ranks": (2, dict(per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=16)),
    # The last batch is short as well; a last step of one round; evaluation in three rounds, the last of one example.
    "uneven": (
        2,
        dict(
            per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=3.0, max_steps=-1,
            per_device_eval_batch_size=2, seen=2,
        ),
    ),
    "three_ranks": (
        3, dict(per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=8, max_grad_norm=0.3, weight_decay=0.05, seen=3)
    ),
    # Fewer batches than ranks.
    "four_ranks": (4, dict(per_device_train_batch_size=8, max_steps=6, per_device_eval_batch_size=1)),
    "own_tokens": (
        2,
        dict(
            per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=6, average_tokens_across_devices=False,
            seen=1,
        ),
    ),
    "microbatch_mean": (
        2, dict(per_device_train_batch_size=3, gradient_accumulation_steps=2, max_steps=6, loss_normalization="microbatch_mean")
    ),
}


class RankTrainer(RecordingTrainer):
    """Notes which examples a rank takes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = []

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.batches.append(inputs.pop("numbers").tolist())
        return super().training_step(model, inputs, num_items_in_batch)


def collate_numbered(examples):
    batch = collate(examples)
    # Of evaluation examples, nobody asks.
    if "number" in examples[0]:
        batch["numbers"] = torch.tensor([example["number"] for example in examples])
    return batch


def run(rank, name, port, folder):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    world_size, case = CASES[name]
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }
    data = json.loads((GOLDEN / "tied" / "data.json").read_text())
    rows = lambda part: [{"input_ids": i, "labels": l} for i, l in zip(part["input_ids"], part["labels"])]
    model, settings = load(case, data), {**SETTINGS, **case}
    for own in OWN:
        settings.pop(own, None)
    train = rows(data)
    held_out = train[: case.get("seen", 0)] + rows(data["eval"])
    train = [example | {"number": number} for number, example in enumerate(train)]
    arguments = TrainingArguments(
        output_dir=str(folder / "out"), use_cpu=True, ddp_backend="gloo", report_to=[], logging_steps=1, disable_tqdm=True, seed=SEED,
        remove_unused_columns=False, dataloader_pin_memory=False, save_strategy="no", eval_strategy="steps", eval_steps=5, **settings,
    )
    recorder, evaluations = Recorder(), Evaluations()
    trainer = RankTrainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=held_out, data_collator=collate_numbered,
        callbacks=[recorder, evaluations],
    )
    assert trainer.accelerator.num_processes == world_size and type(trainer.accelerator.prepare(model)).__name__ == "DistributedDataParallel"
    recorder.trainer = trainer
    if case.get("loss_normalization") == "microbatch_mean":
        trainer.model_accepts_loss_kwargs = False
    trainer.train()
    rounds = len(trainer.get_train_dataloader())
    order = [trainer.batches[epoch * rounds : (epoch + 1) * rounds] for epoch in range(2)]
    found = {"curve": recorder.curve, "evaluations": evaluations.found, "order": order}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def make(name):
    world_size, case = CASES[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (name, port, Path(folder)), nprocs=world_size)
        ranks = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(world_size)]
    first = ranks[0]
    curve = []
    for steps in zip(*(rank["curve"] for rank in ranks)):
        # Logged by the first rank alone; DDP's gradients are those of all.
        loss = sum(step["loss"] for step in steps) / world_size
        curve.append([loss, steps[0]["grad_norm"], steps[0]["learning_rate"]])
    assert curve and all(None not in step for step in curve)
    found = {
        "world_size": world_size, "config": case, "curve": curve, "evaluations": first["evaluations"],
        "order": [[rank["order"][epoch] for rank in ranks] for epoch in range(2)],
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, accelerate)},
    }
    (GOLDEN / "ddp").mkdir(exist_ok=True)
    (GOLDEN / "ddp" / f"{name}.json").write_text(json.dumps(found) + "\n")
    print(name, len(curve), curve[0], curve[-1], found["evaluations"], found["order"])


if __name__ == "__main__":
    for case_name in sys.argv[1:] or CASES:
        make(case_name)
