"""The bytes of a TensorBoard event file, as TensorBoard's own writer makes them and its own reader reads them: golden/events.json.

    python test/parity/make_event_file.py
"""

import base64
import io
import json
import os
import tempfile
from pathlib import Path

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

BEGUN = 1_700_000_000.25
NAN, INFINITY = float("nan"), float("inf")
EVENTS = [
    (1_700_000_001.0, 0, {"eval/loss": 2.5}),
    (1_700_000_002.125, 1, {"train/loss": 1.75, "train/learning_rate": 5e-5, "train/epoch": 0.0}),
    (1_700_000_003.999, 300, {"train/loss": NAN, "train/grad_norm": INFINITY, "train/größe": -1e-30}),
    (1_700_000_004.5, 2**31 + 5, {"train/num_input_tokens_seen": 123_456_789.0, "train/loss": 1e300}),
]


def message(time, step, values):
    # As TensorBoard's writers do with what float32 cannot hold.
    clipped = {tag: INFINITY if value > 3.5e38 else value for tag, value in values.items()}
    value = [summary_pb2.Summary.Value(tag=tag, simple_value=number) for tag, number in clipped.items()]
    return event_pb2.Event(wall_time=time, step=step, summary=summary_pb2.Summary(value=value))


def main():
    buffer = io.BytesIO()
    buffer.close = lambda: None
    writer = RecordWriter(buffer)
    writer.write(event_pb2.Event(wall_time=BEGUN, file_version="brain.Event:2").SerializeToString())
    for event in EVENTS:
        writer.write(message(*event).SerializeToString())
    writer.flush()
    data = buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "events.out.tfevents.1700000000.luthier").write_bytes(data)
        reader = event_accumulator.EventAccumulator(folder)
        reader.Reload()
        losses = [(one.wall_time, one.step) for one in reader.Scalars("train/loss")]
        assert losses == [(time, step) for time, step, values in EVENTS if "train/loss" in values], losses
    golden = {
        "begun": BEGUN,
        # What JSON has no word for is a string.
        "events": [
            {"time": time, "step": step, "values": {k: v if v == v and abs(v) != INFINITY else str(v) for k, v in values.items()}}
            for time, step, values in EVENTS
        ],
        "base64": base64.b64encode(data).decode(),
    }
    path = os.path.join(os.path.dirname(__file__), "golden", "events.json")
    Path(path).write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    print(path, len(data), "bytes")


if __name__ == "__main__":
    main()
