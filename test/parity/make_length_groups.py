"""Orders of transformers' length-grouped sampler, for lengths and seeds that its rules tell apart: golden/length_groups.json.

Lengths repeat, so that ties count; batch sizes leave one mega-batch, several, and more than fifty batches to each.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers.trainer_pt_utils import get_length_grouped_indices

CASES = [(1, 1, 0), (7, 2, 42), (10, 4, 1), (100, 3, 42), (100, 8, 43), (1000, 2, 7)]


def lengths_of(count: int) -> list[int]:
    return [1 + (index * 7919) % 13 + (index % 5 == 0) * 20 for index in range(count)]


cases = []
for count, batch_size, seed in CASES:
    generator = torch.Generator().manual_seed(seed)
    order = get_length_grouped_indices(lengths_of(count), batch_size, generator=generator)
    cases.append({"lengths": lengths_of(count), "batch_size": batch_size, "seed": seed, "order": order})

versions = {"torch": torch.__version__, "transformers": transformers.__version__}
target = Path(__file__).parent / "golden" / "length_groups.json"
target.write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")
