"""Writes `golden/parquet/`: data sets as pyarrow writes them, for `src/datasets/parquet.test.ts`.

    python test/parity/make_parquet.py

Needs the packages pinned in `requirements.txt`. Besides each file stands `NAME.jsonl`, the same rows as pyarrow reads them back (nulls left out of
objects), so that expected values are pyarrow's own.

    messages.parquet        nested lists of structs with null members, three row groups, zstd
    instruction.parquet     nulls in a column, dictionary pages, snappy
    tokens.parquet          lists of int64, gzip, data pages of version 2
    large_group.parquet     a row group of 25 MiB in lists, which is more than is read at once
    binary.parquet          text in a column that is not declared as text, one value of it no UTF-8; brotli
    plain.parquet           no compression, delta encodings
    lz4.parquet             a codec that is refused
    numbers.parquet         a column of decimals and times where text is expected
    null_message.parquet    a null within a list of messages
"""

import datetime
import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "golden" / "parquet"
TURN = pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.int8())])
QUESTIONS = ["What is rain?", "为什么天是蓝的？", "Why 🌧?", ""]


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def write(name, table, **options):
    path = FOLDER / f"{name}.parquet"
    pq.write_table(table, path, **options)
    return pq.read_table(path)


def expect(name, table):
    rows = [json.dumps(without_nulls(row), ensure_ascii=False) for row in table.to_pylist()]
    (FOLDER / f"{name}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def conversation(index):
    answer = {"role": "assistant", "content": f"answer {index}", "weight": index % 2}
    return [{"role": "user", "content": QUESTIONS[index % 4], "weight": None}, answer]


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = [conversation(index) * (1 + index % 3) for index in range(25)]
    messages = pa.table({"messages": pa.array(rows, pa.list_(TURN))})
    expect("messages", write("messages", messages, row_group_size=10, compression="zstd"))

    instruction = pa.table(
        {
            "instruction": [QUESTIONS[index % 4] for index in range(40)],
            "input": [None if index % 3 else f"input {index}" for index in range(40)],
            "output": [f"output {index % 5}" for index in range(40)],
        }
    )
    expect("instruction", write("instruction", instruction, compression="snappy"))

    ids = [[index + step for step in range(1 + index % 4)] for index in range(20)]
    labels = [[-100] + sequence[1:] for sequence in ids]
    tokens = pa.table({"input_ids": ids, "labels": labels})
    expect("tokens", write("tokens", tokens, compression="gzip", data_page_version="2.0"))

    binary = pa.table({"text": pa.array(["abc".encode(), "é".encode(), b"\xff\xfe", b"last"], pa.binary())})
    large = pa.table({"messages": [[{"role": "user", "content": "a" * 2**20}]] * 25})
    write("large_group", large, compression="zstd", use_dictionary=False)
    write("binary", binary, compression="brotli")

    plain = pa.table({"prompt": [f"p{index}" for index in range(30)], "completion": [f"c{index}" for index in range(30)]})
    encodings = {"prompt": "DELTA_BYTE_ARRAY", "completion": "DELTA_LENGTH_BYTE_ARRAY"}
    options = {"compression": "none", "use_dictionary": False, "column_encoding": encodings}
    expect("plain", write("plain", plain, **options))

    write("lz4", plain, compression="lz4")

    times = [datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)] * 2
    write("numbers", pa.table({"prompt": [decimal.Decimal("1.5")] * 2, "completion": times}))

    hole = [[{"role": "user", "content": "a", "weight": None}, None], conversation(1)]
    write("null_message", pa.table({"messages": pa.array(hole, pa.list_(TURN))}))


main()
