"""Writes golden/sentencepiece/folders.json: ids of transformers' Llama class for folders with a tokenizer.model.

    pip install -r requirements-sentencepiece.txt
    python make_sentencepiece_folders.py

The class in Python (`use_fast=False`), which version 5 no longer has, is what such folders were made for: it cuts a text
at its special and added tokens and encodes what is between them, as `legacy` says.
"""

import gzip
import json
import tempfile
from pathlib import Path

from transformers import AddedToken, LlamaTokenizer

golden = Path(__file__).parent / "golden" / "sentencepiece"

TEXTS = [
    "",
    " ",
    "hello world",
    "  two spaces",
    "你好，世界",
    "<s>hello</s>",
    "<s> hello </s> world",
    "hello<s>world",
    "<|user|>\n the question<|end|>",
    "a<|user|>b<|end|>\n\nc",
    "the<think>you</think> way",
    "x <think> y",
    "<pad><unk>",
    "hello ▁ world",
    "<s>",
    "é😀<s>é😀",
]
TOKENS = [AddedToken("<|user|>", special=True), AddedToken("<|end|>", special=True), AddedToken("<pad>", special=True)]
ORDINARY = [AddedToken("<think>", special=False), AddedToken("</think>", special=False)]

CASES = {
    "legacy": dict(legacy=True),
    "whole": dict(legacy=False),
    "whole without prefix": dict(legacy=False, add_prefix_space=False),
    "no BOS": dict(legacy=True, add_bos_token=False),
    "EOS": dict(legacy=True, add_eos_token=True),
}


def main():
    cases = []
    for model in ("bpe-symbols", "bpe-bytes"):
        for name, options in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "tokenizer.model")
                path.write_bytes(gzip.decompress((golden / f"{model}.model.gz").read_bytes()))
                tokenizer = LlamaTokenizer(str(path), pad_token="<pad>", **options)
                tokenizer.add_tokens(TOKENS, special_tokens=True)
                tokenizer.add_tokens(ORDINARY)
                tokenizer.save_pretrained(folder)
                files = {file.name: json.loads(file.read_text()) for file in Path(folder).glob("*.json")}
            ids = [tokenizer.encode(text) for text in TEXTS]
            cases.append(dict(model=model, name=name, files=files, ids=ids))
    text = json.dumps(dict(texts=TEXTS, cases=cases), ensure_ascii=False, separators=(",", ":"))
    (golden / "folders.json").write_text(text + "\n", encoding="utf8")


main()
