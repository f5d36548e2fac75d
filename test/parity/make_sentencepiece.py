"""Writes golden/sentencepiece: small models, strings, and what the sentencepiece library makes of them.

    pip install -r requirements-sentencepiece.txt
    python make_sentencepiece.py [NAME=REAL.model ...]

`strings.json.gz` holds the strings. `NAME.model.gz` is a model trained here (see `MODELS`); real ones are named on the
command line and not kept: the tests find them in a package. `NAME.bin` has, little-endian, for every string a 32-bit hash
of its ids and a 16-bit hash of their decoded text, then a 16-bit hash for every one of `RANDOM` decoded random
sequences of ids. Hashes are FNV-1a over 32-bit ids or UTF-16 units; 16-bit ones fold the upper half onto the lower.
UNK decodes to nothing, since the service shows it otherwise than the library does.
"""

import gzip
import json
import random
import struct
import sys
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

here = Path(__file__).parent
golden = here / "golden" / "sentencepiece"
fixtures = here.parent / "fixtures"

STRINGS = 5400
RANDOM = 400
SMALL = 1200  # strings that the small models encode

WORDS = (
    "the of and to in a is that for it was on are as with they be at one have this from or had by hot word but what some we "
    "can out other were all there when up use your how said an each she which do their time if will way about many then them "
    "lower newest widest internationalization antidisestablishmentarianism don't I'm can't GPU NVIDIA H100 PyTorch GitHub "
    "función naïve café Straße ÜBER größer Ελλάδα Σίσυφος МОСКВА Привет ёлка İstanbul ıssız "
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก 안녕하세요 세계 こんにちは 世界 カタカナ ﾊﾝｶｸ ガギグゲゴ ｶﾞｷﾞ "
    "你好 世界 模型 训练 大语言模型 微调 数据集 百川智能 清华大学 人工智能 机器学习 深度学习 的 了 是 我们 他们 问 答 繁體中文 漢字 龘 𠀀𠮷 㐀"
).split()
EMOJI = "😀 😃 👍 👍🏽 👩‍💻 👨‍👩‍👧‍👦 🇩🇪 🏳️‍🌈 ❤️ ❤ ☃ ⚡ 🪿 🫠 ✂️ 1️⃣ #️⃣".split()
ODD = (
    ["\u0300", "\u0301", "e\u0301", "a\u0308\u0323", "\u1e9b\u0323", "\u0345", "q\u0307\u0323", "\u3099", "か\u3099", "は\u309a"]
    + ["\u1100\u1161", "\u1112\u1161\u11ab", "\uac00\u11a8", "ᄀ", "ㄱ", "ﾡ", "\u0958", "\u0929", "\u0b94", "\u0f73", "\u2126", "\u212b"]
    + ["ﬁ", "ﬃ", "ﬅ", "Ⅷ", "ⅷ", "½", "²", "①", "㍿", "㎏", "㋿", "™", "℃", "…", "‥", "﷽", "ﷺ", "ｱ", "Ａ", "ａ", "１", "！", "￥", "～", "〜", "－", "‐", "–", "—"]
    + ["𝔘", "𝓗𝓮𝓵𝓵𝓸", "𝟘𝟙", "𝐀", "ﬀ", "ǆ", "ǅ", "ß", "ẞ", "ŉ", "ſ", "K", "Å", "Ω", "µ", "·", "´", "¨", "˘", "͵", ";"]
    + ["\x00", "\x01", "\x08", "\x0b", "\x0c", "\x0e", "\x1b", "\x1f", "\x7f", "\x80", "\x85", "\x9f", "\xa0", "\xad"]
    + ["\u1680", "\u2002", "\u2009", "\u200a", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u2028", "\u2029", "\u202e", "\u202f"]
    + ["\u2060", "\u205f", "\u3000", "\ufeff", "\ufffd", "\ufffe", "\uffff", "\ufdd0", "\u2581", "\u2581\u2581", "\U0010ffff", "\U000e0001", "\ue000", "\ufe0f"]
    + ["\t", "\n", "\r\n", "\n\n", " ", "  ", "   ", "    ", " " * 9, " " * 40, "\t\t", " \n ", "\u3000\u3000"]
    + ["<s>", "</s>", "<unk>", "<pad>", "<0x41>", "<0xE4>", "<|im_start|>", "<|im_end|>", "[INST]", "[gMASK]", "sop", "<mask>", "<sep>", "<reserved_106>", "ABAB", "AB", "ABA", "@@", "@"]
    + ["0", "7", "42", "007", "1234567890", "3.14159", "1,000,000", "2026-11-25", "0x1F", "1e-5", "٤٢", "४२", "４２", "½¼"]
    + list(".,:;!?-_()[]{}\"'`~@#$%^&*+=|\\/<>") + list("，。！？；：“”‘’（）《》、【】")
)


def alphabets(rng):
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x400), (0x400, 0x500), (0x590, 0x700), (0x900, 0xE80)]
    ranges += [(0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2100), (0x2100, 0x2400), (0x2E80, 0x3400), (0x4E00, 0x9FFF)]
    ranges += [(0xAC00, 0xD7A4), (0xF900, 0xFB50), (0xFB50, 0xFE00), (0xFE00, 0xFFFF), (0x1D400, 0x1D800), (0x1F300, 0x1FB00)]
    ranges += [(0x20000, 0x2A6DF), (0x2F800, 0x2FA1E), (0, 0xD800), (0xE000, 0x110000)]
    low, high = rng.choice(ranges)
    return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 12)))


def part(rng):
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(WORDS)
    if kind < 0.55:
        return rng.choice(EMOJI)
    if kind < 0.8:
        return rng.choice(ODD)
    if kind < 0.9:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABIVX") for _ in range(rng.randrange(1, 9)))
    return alphabets(rng)


def make_strings():
    rng = random.Random(20)
    strings = ["", *ODD, *EMOJI]
    strings += (fixtures / "tokenizer-corpus.txt").read_text(encoding="utf8").split("\n")
    odd = json.loads((fixtures / "tokenizer-odd-texts.json").read_text(encoding="utf8"))
    # Python has no UTF-8 for lone surrogates; the service replaces them before encoding.
    strings += [text for text in odd if not any(0xD800 <= ord(c) < 0xE000 for c in text)]
    while len(strings) < STRINGS:
        glue = rng.choice(["", "", " ", " ", "  ", "\n"])
        length = rng.choice([1, 2, 3, 4, 6, 9]) if rng.random() < 0.995 else 800
        strings.append(glue.join(part(rng) for _ in range(length)))
    # Sums beyond 100,000 are set back to 0.
    strings.append(" ".join(rng.choice(WORDS) for _ in range(9000)))
    strings.append("".join(rng.choice("IVXLC") for _ in range(3000)))
    strings.append(" " * 3000)
    rng.shuffle(strings)
    return strings


def training_text():
    rng = random.Random(7)
    lines = (fixtures / "tokenizer-corpus.txt").read_text(encoding="utf8").split("\n")
    plain = [word for word in WORDS if len(word) < 20]
    return lines + [" ".join(rng.choice(plain) for _ in range(rng.randrange(3, 12))) for _ in range(3000)]


RULES = "0041\t0042\n0041 0042\t0043 0020\n0041 0042 0041\t\n0020 0020\t0020\n00DF\t0073 0073\n4F60\t0020\n1F600\t263A\n1F1E9 1F1EA\t44 45\n"
SYMBOLS = ["<sep>", "<mask>", "ABAB", "AB", "@@", "训练", "▁▁", "hello world"]
RARE = dict(character_coverage=0.98)  # so that some characters of the strings are unknown
BYTES = dict(byte_fallback=True, **RARE)
FREE = dict(normalization_rule_name="identity", remove_extra_whitespaces=False)

MODELS = {
    # As Baichuan and Llama have it, without and with the space in front.
    "bpe-bytes": dict(model_type="bpe", vocab_size=700, add_dummy_prefix=False, split_digits=True, **BYTES, **FREE),
    "bpe-symbols": dict(
        model_type="bpe", vocab_size=720, user_defined_symbols=SYMBOLS, allow_whitespace_only_pieces=True, **BYTES, **FREE
    ),
    "bpe-nfkc-cf": dict(model_type="bpe", vocab_size=900, normalization_rule_name="nfkc_cf", **RARE),
    "unigram-control": dict(
        model_type="unigram", vocab_size=1000, normalization_rule_name="identity", control_symbols=["<ctl>"], **RARE
    ),
    "unigram-symbols": dict(model_type="unigram", vocab_size=1000, user_defined_symbols=SYMBOLS, **BYTES, **FREE),
    "unigram-rules": dict(model_type="unigram", vocab_size=1000, rules=RULES, user_defined_symbols=["ABA", "  "], **RARE),
    "bpe-rules": dict(model_type="bpe", vocab_size=900, rules=RULES, add_dummy_prefix=False, **RARE),
    # Pieces out of use, and scores rounded so that many are equal.
    "bpe-unused": dict(model_type="bpe", vocab_size=700, unused=True, **BYTES, **FREE),
    "unigram-unused": dict(model_type="unigram", vocab_size=1000, normalization_rule_name="identity", unused=True, **RARE),
}


def train(options):
    options = dict(options)
    unused = options.pop("unused", False)
    rules = options.pop("rules", None)
    with tempfile.TemporaryDirectory() as folder:
        if rules is not None:
            Path(folder, "rules.tsv").write_text(rules)
            options["normalization_rule_tsv"] = str(Path(folder, "rules.tsv"))
        prefix = str(Path(folder, "model"))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(training_text()),
            model_prefix=prefix,
            num_threads=1,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
        data = Path(prefix + ".model").read_bytes()
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(data)
    # Names the path of a temporary file, and nothing reads it.
    for field in ("input", "model_prefix"):
        proto.trainer_spec.ClearField(field)
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    if unused:
        for index, piece in enumerate(proto.pieces):
            if piece.type != 1:
                continue
            piece.score = round(piece.score / 20) * 20.0 if options["model_type"] == "bpe" else float(round(piece.score))
            if index % 5 == 0:
                piece.type = 5
    return proto.SerializeToString()


def fnv(values):
    state = 0x811C9DC5
    for value in values:
        for shift in (0, 8, 16, 24):
            state = ((state ^ (value >> shift & 255)) * 0x01000193) & 0xFFFFFFFF
    return state


def fold(state):
    return (state ^ state >> 16) & 0xFFFF


def text_hash(text):
    units = text.encode("utf-16-le")
    return fold(fnv(struct.unpack(f"<{len(units) // 2}H", units)))


def random_ids(count, size):
    """Sequences of a linear congruential generator, so that the tests can make them, too."""
    state = 1
    for index in range(count):
        ids = []
        for _ in range(1 + index % 12):
            state = (state * 1103515245 + 12345) & 0x7FFFFFFF
            # Every other sequence is of low ids, where control and byte pieces are.
            ids.append((state >> 8) % (size if index % 2 else min(size, 300)))
        yield ids


def without_unk_surface(processor):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(processor.serialized_model_proto())
    proto.trainer_spec.unk_surface = ""
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def expectations(processor, strings):
    decoder = without_unk_surface(processor)
    encoded = processor.encode(strings)
    sequences = [*encoded, *random_ids(RANDOM, processor.get_piece_size())]
    data = b"".join(struct.pack("<I", fnv(ids)) for ids in encoded)
    return data + b"".join(struct.pack("<H", text_hash(text)) for text in decoder.decode(sequences))


def main():
    golden.mkdir(parents=True, exist_ok=True)
    strings = make_strings()
    write = lambda name, data: (golden / name).write_bytes(gzip.compress(data, 9, mtime=0))
    write("strings.json.gz", json.dumps(strings, ensure_ascii=False).encode("utf8"))
    for name, options in MODELS.items():
        model = train(options)
        write(f"{name}.model.gz", model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        (golden / f"{name}.bin").write_bytes(expectations(processor, strings[:SMALL]))
        print(name, processor.get_piece_size(), "pieces")
    for argument in sys.argv[1:]:
        name, path = argument.split("=", 1)
        processor = sentencepiece.SentencePieceProcessor(model_file=path)
        (golden / f"{name}.bin").write_bytes(expectations(processor, strings))
        print(name, processor.get_piece_size(), "pieces")


main()
