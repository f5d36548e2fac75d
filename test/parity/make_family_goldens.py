"""Makes test/parity/golden/families/<case>/: a tiny random model of every family, an adapter each, and what transformers + PEFT make of them.

    python -m pip install -r test/parity/requirements.txt
    python test/parity/make_family_goldens.py [case …]

Every case holds
    model/                  a Hugging Face folder under the family's own names; weights are bf16, so that they are exact in f32 and small
    init_adapter/           a PEFT folder, the adapter training starts from; B is random
    data.json               examples, evaluation examples and the training configuration, as make_goldens.py writes them
    expected.json           the curve, evaluations, greedy tokens with either adapter, versions
    expected.safetensors    `ids` of some sequences, and their `logits` without and with (`adapted`) the adapter

The oracle is transformers' own class for each family; for families whose class is code in the model's repository, a class of transformers that
computes the same, whose weights are then stored under the family's names:
    baichuan-7b     Llama, q/k/v stacked as W_pack
    baichuan2-7b    that, with an output layer that normalises its rows in each forward
    baichuan-13b    Llama without rope, BLOOM's ALiBi tensor added to the scores; five heads, no power of two
    chatglm3        Glm (half rope on neighbouring numbers, fused gate and up), q/k/v with biases stacked
An adapter on W_pack itself is one of a model whose q/k/v are slices of one real layer of that name, saved by PEFT.

Everything is f32 on the CPU with one thread.
"""

import copy
import json
import shutil
import sys
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AttentionInterface, AutoModelForCausalLM, GlmConfig, LlamaConfig, Qwen2Config, Qwen3Config, TrainerCallback,
    TrainingArguments,
)
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from make_goldens import ALL_LINEAR, GOLDEN, Recorder, RecordingTrainer, collate, evaluate, greedy

FOLDER = GOLDEN / "families"
VOCABULARY = 64
SHAPE = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None, initializer_range=0.2,
    tie_word_embeddings=False, dtype=torch.float32,
)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32,
)
BAICHUAN = dict(num_key_value_heads=4, rms_norm_eps=1e-6)
BAICHUAN_13B = dict(hidden_size=40, num_attention_heads=5, num_key_value_heads=5, rms_norm_eps=1e-6)
CASES = {
    "llama3": dict(seed=31, configuration=LlamaConfig, model=dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "linear": dict(
        seed=32, configuration=LlamaConfig,
        model=dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0), attention_bias=True, mlp_bias=True),
    ),
    "qwen2": dict(seed=34, configuration=Qwen2Config, model=dict(use_sliding_window=False, tie_word_embeddings=True)),
    "qwen3": dict(seed=35, configuration=Qwen3Config, model=dict(head_dim=12, use_sliding_window=False)),
    "baichuan-7b": dict(seed=36, configuration=LlamaConfig, model=BAICHUAN, family="baichuan"),
    "baichuan2-7b": dict(seed=37, configuration=LlamaConfig, model=BAICHUAN, family="baichuan", normalised=True),
    "baichuan-13b": dict(seed=38, configuration=LlamaConfig, model=BAICHUAN_13B, family="baichuan", alibi=True),
    "chatglm3": dict(seed=41, configuration=GlmConfig, model=dict(head_dim=8), family="chatglm", rope_ratio=50),
}
CONFIG = dict(
    lora=dict(r=2, lora_alpha=4.0, target_modules=None, use_rslora=False, seed=0),
    learning_rate=2e-3, lr_scheduler_type="linear", warmup_steps=3, weight_decay=0.01,
    adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, max_grad_norm=1.0,
    per_device_train_batch_size=3, gradient_accumulation_steps=2, num_train_epochs=20.0, max_steps=20,
    per_device_eval_batch_size=3, eval_steps=20, shuffle=True, data_seed=42,
)


# --- what transformers has no class for

class NormalisedHead(nn.Linear):
    """Baichuan2's: rows are brought to unit length in each forward."""

    def forward(self, hidden):
        return nn.functional.linear(hidden, nn.functional.normalize(self.weight))


class NoRotation(nn.Module):
    def forward(self, hidden, position_ids):
        width = CURRENT_HEAD_DIM
        ones = torch.ones(*position_ids.shape, width)
        return ones, torch.zeros_like(ones)


def alibi_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    """Scores plus BLOOM's tensor, which is slope times the key's position: slope times the distance but for a constant of each row."""
    batch, heads, length, _width = query.shape
    scores = query @ key.transpose(2, 3) * scaling
    alibi = build_alibi_tensor(torch.ones(batch, key.shape[2]), heads, scores.dtype).view(batch, heads, 1, key.shape[2])
    hidden = torch.ones(length, key.shape[2], dtype=torch.bool).triu(1 + key.shape[2] - length)
    scores = (scores + alibi).masked_fill(hidden, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("alibi", alibi_attention)
transformers.AttentionMaskInterface.register("alibi", lambda *args, **kwargs: None)


class Part(nn.Module):
    """Rows of the output of a layer of another module, which PEFT may have wrapped."""

    def __init__(self, owner, index):
        super().__init__()
        self.owner, self.index = [owner], index

    def forward(self, x):
        return self.owner[0].W_pack(x).chunk(3, -1)[self.index]


def with_w_pack(base):
    """The same model with one real layer W_pack in each block."""
    model = copy.deepcopy(base)
    for layer in model.model.layers:
        attention = layer.self_attn
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        attention.W_pack = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts), bias=False)
        attention.W_pack.weight.data = torch.cat([part.weight.data for part in parts])
        attention.q_proj, attention.k_proj, attention.v_proj = (Part(attention, index) for index in range(3))
    return model


def build(case):
    torch.manual_seed(case["seed"])
    configuration = case["configuration"](**{**SHAPE, **case["model"]})
    if "rope_ratio" in case:
        configuration.rope_parameters["rope_theta"] *= case["rope_ratio"]
    implementation = "alibi" if case.get("alibi") else "eager"
    model = AutoModelForCausalLM.from_config(configuration, attn_implementation=implementation)
    if case.get("alibi"):
        global CURRENT_HEAD_DIM
        CURRENT_HEAD_DIM = model.model.layers[0].self_attn.head_dim
        model.model.rotary_emb = NoRotation()
    if case.get("normalised"):
        head = NormalisedHead(model.config.hidden_size, model.config.vocab_size, bias=False)
        # Rows of many lengths.
        head.weight.data = model.lm_head.weight.data * torch.logspace(-1, 1, VOCABULARY)[:, None] / 0.2
        model.lm_head = head
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
        parameter.data = parameter.data.bfloat16().float()
    return model.eval()


# --- the family's names

def baichuan(model, case):
    """The tensors and the configuration of a Baichuan folder."""
    tensors = dict(model.state_dict())
    for layer in range(model.config.num_hidden_layers):
        prefix = f"model.layers.{layer}.self_attn."
        parts = [tensors.pop(f"{prefix}{name}_proj.weight") for name in "qkv"]
        tensors[prefix + "W_pack.weight"] = torch.cat(parts)
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps", "hidden_act",
            "bos_token_id", "eos_token_id", "tie_word_embeddings"]
    plain = not case.get("alibi") and not case.get("normalised")
    config = {
        "model_type": "baichuan", "architectures": ["BaiChuanForCausalLM" if plain else "BaichuanForCausalLM"],
        **{key: getattr(model.config, key) for key in keys},
    }
    if not plain:
        config["model_max_length"] = 128
    if not case.get("alibi"):
        config["max_position_embeddings"] = 128
    if case.get("normalised"):
        config["z_loss_weight"] = 0
    return tensors, config


def chatglm(model, case):
    """The tensors and the configuration of a ChatGLM2 or ChatGLM3 folder."""
    theirs = model.state_dict()
    tensors = {
        "transformer.embedding.word_embeddings.weight": theirs["model.embed_tokens.weight"],
        "transformer.rotary_pos_emb.inv_freq": torch.ones(2),
        "transformer.encoder.final_layernorm.weight": theirs["model.norm.weight"],
        "transformer.output_layer.weight": theirs["lm_head.weight"],
    }
    for layer in range(model.config.num_hidden_layers):
        source, target = f"model.layers.{layer}.", f"transformer.encoder.layers.{layer}."
        for kind in ["weight", "bias"]:
            parts = [theirs[f"{source}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            tensors[f"{target}self_attention.query_key_value.{kind}"] = torch.cat(parts)
        for own, llama in [
            ("input_layernorm", "input_layernorm"), ("post_attention_layernorm", "post_attention_layernorm"),
            ("self_attention.dense", "self_attn.o_proj"), ("mlp.dense_h_to_4h", "mlp.gate_up_proj"), ("mlp.dense_4h_to_h", "mlp.down_proj"),
        ]:
            tensors[f"{target}{own}.weight"] = theirs[f"{source}{llama}.weight"]
    ours = model.config
    config = {
        "model_type": "chatglm", "architectures": ["ChatGLMModel"], "_name_or_path": "THUDM/chatglm3-6b-32k" if "rope_ratio" in case else "",
        "padded_vocab_size": ours.vocab_size, "hidden_size": ours.hidden_size, "ffn_hidden_size": ours.intermediate_size,
        "num_layers": ours.num_hidden_layers, "num_attention_heads": ours.num_attention_heads, "kv_channels": ours.head_dim,
        "multi_query_attention": True, "multi_query_group_num": ours.num_key_value_heads, "seq_length": 128,
        "layernorm_epsilon": ours.rms_norm_eps, "rmsnorm": True, "post_layer_norm": True, "add_bias_linear": False, "add_qkv_bias": True,
        "apply_residual_connection_post_layernorm": False, "original_rope": True, "rope_ratio": case.get("rope_ratio", 1),
        "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
    }
    return tensors, config


def save(model, case, folder):
    if "family" not in case:
        copy.deepcopy(model).bfloat16().save_pretrained(folder)
        return
    tensors, config = {"baichuan": baichuan, "chatglm": chatglm}[case["family"]](model, case)
    folder.mkdir(parents=True)
    # A head that is normalised stays f32: rows of unit length are rounded to the type that the file has.
    short = lambda name, tensor: tensor if name == "lm_head.weight" and case.get("normalised") else tensor.bfloat16()
    save_file({name: short(name, tensor).contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


# --- the run

def example(generator):
    length = int(torch.randint(3, 31, (1,), generator=generator))
    ids = torch.randint(0, VOCABULARY, (length,), generator=generator)
    labels = torch.where(torch.rand(length, generator=generator) < 0.5, ids, torch.tensor(-100))
    labels[-1] = ids[-1]
    return {"input_ids": ids.tolist(), "labels": labels.tolist()}


def random_b(model):
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)


def settings(targets):
    lora = CONFIG["lora"]
    return LoraConfig(r=lora["r"], lora_alpha=lora["lora_alpha"], lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=targets)


def save_adapter(model, folder):
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits.contiguous()


def make(name, case):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(case["seed"])
    base = build(case)
    save(base, case, folder / "model")
    ids = torch.randint(0, VOCABULARY, (1, 32), generator=generator)
    expected = {"ids": ids.int(), "logits": logits(base, ids)}

    glm = case.get("family") == "chatglm"
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"] if glm else ALL_LINEAR
    pristine = copy.deepcopy(base) if name == "baichuan-7b" else None
    model = get_peft_model(base, settings(targets))
    random_b(model)
    model.peft_config["default"].base_model_name_or_path = f"luthier/{name}"
    save_adapter(model, folder / "init_adapter")
    expected["adapted"] = logits(model.eval(), ids)

    if pristine is not None:
        fused = get_peft_model(with_w_pack(pristine), settings(["W_pack", "o_proj"]))
        random_b(fused)
        fused.peft_config["default"].base_model_name_or_path = f"luthier/{name}"
        save_adapter(fused, folder / "w_pack_adapter")
        expected["w_pack"] = logits(fused.eval(), ids)
    save_file(expected, folder / "expected.safetensors")

    config = {**CONFIG, "lora": {**CONFIG["lora"], "target_modules": targets}}
    train = [example(generator) for _ in range(14)]
    evaluation = [example(generator) for _ in range(4)]
    prompt = torch.randint(0, VOCABULARY, (9,), generator=generator).tolist()
    greedy_initial = greedy(model, prompt, 24)
    arguments = TrainingArguments(
        output_dir="/tmp/luthier-goldens", use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        optim="adamw_torch", remove_unused_columns=False, dataloader_pin_memory=False, train_sampling_strategy="random",
        learning_rate=config["learning_rate"], lr_scheduler_type=config["lr_scheduler_type"], warmup_steps=config["warmup_steps"],
        weight_decay=config["weight_decay"], adam_beta1=config["adam_beta1"], adam_beta2=config["adam_beta2"],
        adam_epsilon=config["adam_epsilon"], max_grad_norm=config["max_grad_norm"],
        per_device_train_batch_size=config["per_device_train_batch_size"],
        gradient_accumulation_steps=config["gradient_accumulation_steps"], num_train_epochs=config["num_train_epochs"],
        max_steps=config["max_steps"], per_device_eval_batch_size=config["per_device_eval_batch_size"],
        data_seed=config["data_seed"], seed=1,
    )
    recorder = Recorder()

    class Evaluations(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.add(0)

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % config["eval_steps"] == 0:
                self.add(state.global_step)

        def add(self, step):
            result = evaluate(model, evaluation, config["per_device_eval_batch_size"])
            recorder.evaluations.append({"global_step": step, **result})
            model.train()

    trainer = RecordingTrainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=evaluation, data_collator=collate,
        callbacks=[recorder, Evaluations()],
    )
    recorder.trainer = trainer
    trainer.train()
    assert all(step["grad_norm"] is not None for step in recorder.curve)
    greedy_trained = greedy(model, prompt, 24)

    rows = lambda examples: {key: [e[key] for e in examples] for key in ["input_ids", "labels"]}
    data = {**rows(train), "eval": rows(evaluation), "config": config}
    (folder / "data.json").write_text(json.dumps(data) + "\n")
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    result = {
        "versions": versions, "curve": recorder.curve, "evaluations": recorder.evaluations,
        "greedy": greedy_initial, "greedy_trained": greedy_trained,
    }
    (folder / "expected.json").write_text(json.dumps(result, indent=1) + "\n")
    print(name, "loss", recorder.curve[0]["loss"], "→", recorder.curve[-1]["loss"],
          "gaps", greedy_initial["smallest_gap"], greedy_trained["smallest_gap"], flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case_name in sys.argv[1:] or CASES:
        make(case_name, CASES[case_name])
