"""Computes with llama.cpp the GGUF files that Luthier merged from Hugging Face folders, beside base and adapter by transformers and PEFT.

    LUTHIER_PARITY_OUT=/tmp/merged cargo test --release -p luthier-core --test files merge_gguf_of_folder
    python test/parity/check_merged_gguf.py /tmp/merged

Logits must come within 1e-2 of the largest in f16, 6e-2 in q8_0, in which llama.cpp's activations have 8 bits, too. Tokens must be those of sentencepiece
and of transformers. baichuan2-7b is left out: llama.cpp knows the family by 32 or 40 blocks, and this one has two. Exits with 1 where anything differs.
"""

import sys
from pathlib import Path

import llama_cpp
import sentencepiece
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from make_gguf import by_llama_cpp

GOLDEN = Path(__file__).parent / "golden"
TEXTS = ["a ab  aab", " b", "abab\nba", "w1 w2", "日本 a", "Hello, world's 1234!", ""]


def logits(folder):
    family, format = folder.name.rsplit("-gguf_", 1)
    expected = load_file(GOLDEN / "families" / family / "expected.safetensors")
    ids, pair = expected["ids"][0], expected["adapted"][0]
    found = by_llama_cpp(folder / "model.gguf", ids.tolist())
    off, largest = float((found - pair).abs().max()), float(pair.abs().max())
    effect = float((pair - expected["logits"][0]).abs().max())
    good = off <= (6e-2 if format == "q8_0" else 1e-2) * largest and off < effect / 5
    print(f"{'ok  ' if good else 'FAIL'} {folder.name}: off by {off:.1e} of {largest:.1f}, the adapter changes {effect:.1f}")
    return good


def tokens(folder, encode):
    model = llama_cpp.Llama(str(folder / "model.gguf"), vocab_only=True, verbose=False)
    wrong = [text for text in TEXTS if model.tokenize(text.encode(), add_bos=False, special=False) != encode(text)]
    print(f"{'FAIL' if wrong else 'ok  '} {folder.name}: tokens of {len(TEXTS) - len(wrong)} of {len(TEXTS)} texts")
    for text in wrong:
        print("    ", repr(text), model.tokenize(text.encode(), add_bos=False, special=False), encode(text))
    return not wrong


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    families = [path for path in sorted(out.glob("*-gguf_*")) if not path.name.startswith("baichuan")]
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece" / "tokenizer.model"))
    bytes_ = AutoTokenizer.from_pretrained(GOLDEN / "tied" / "model")
    results = [logits(folder) for folder in families]
    results.append(tokens(out / "sentencepiece", pieces.encode))
    results.append(tokens(out / "byte-level", lambda text: bytes_.encode(text, add_special_tokens=False)))
    sys.exit(0 if families and all(results) else 1)
