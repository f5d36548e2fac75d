"""A tokenizer of single bytes with four control tokens and a ChatML template, for the tiny models."""

import json
from pathlib import Path

CONTROL = ["<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_alphabet():
    """GPT-2's printable character for each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = (byte for byte in range(256) if byte not in kept)
    characters = {byte: chr(byte) for byte in kept}
    characters.update({byte: chr(256 + index) for index, byte in enumerate(shifted)})
    return characters


def write_tokenizer(folder: Path, vocab_size: int):
    vocab = {character: byte for byte, character in byte_alphabet().items()}
    added = [
        dict(id=256 + i, content=text, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        for i, text in enumerate([*CONTROL, *(f"<|reserved_{n}|>" for n in range(vocab_size - 256 - len(CONTROL)))])
    ]
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = dict(
        version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None, pre_tokenizer=byte_level,
        post_processor=None, decoder=byte_level,
        model=dict(
            type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False,
            byte_fallback=False, ignore_merges=False, vocab=vocab, merges=[],
        ),
    )
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n", encoding="utf-8")
    config = dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token=CONTROL[0], eos_token=CONTROL[3], unk_token=None, pad_token=None,
        add_bos_token=False, add_eos_token=False, clean_up_tokenization_spaces=False, model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
