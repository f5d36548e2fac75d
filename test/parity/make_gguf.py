"""Writes `golden/gguf/<case>.gguf`: the tiny models of `golden/families/` as llama.cpp's converter stores them, checked with llama.cpp.

    python -m pip install -r test/parity/requirements.txt
    python test/parity/make_gguf.py

Matrices are bf16, as in the folders, so that the logits of `golden/families/<case>/expected.safetensors` are those of the files. llama.cpp computes each
file here and must come within 2e-2 of the largest logit: what that catches are rows in another order and keys that are read otherwise. Its
batches have 16-bit parts, so it is no oracle of the last digits.

    llama3            rope's factors as a tensor                   linear            linear scaling and biases
    qwen2, qwen3      rows as Hugging Face has them                baichuan-7b       W_pack as three tensors, of which two are permuted
    baichuan2-7b      rows of the output layer brought to unit length, as conversion must do: llama.cpp takes them as they are
    chatglm3          fused tensors, rope on neighbouring numbers
    baichuan-13b      ALiBi

llama.cpp knows by its blocks which Baichuan a model is: 32 have rope, 40 have ALiBi. So these three are models of their own, with ids and logits
in `<case>.safetensors`.
"""

import json
import math
from pathlib import Path

import gguf
import llama_cpp
import numpy
import torch
from safetensors.torch import load_file, save_file

import make_family_goldens as families

FOLDER = families.GOLDEN / "gguf"
BLOCKS = {"baichuan-7b": 32, "baichuan2-7b": 32, "baichuan-13b": 40}
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "transformer.embedding.word_embeddings": "token_embd", "transformer.encoder.final_layernorm": "output_norm",
    "transformer.output_layer": "output", "self_attention.query_key_value": "attn_qkv", "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
}


def permute(weights, heads):
    """What llama.cpp's converter does to rows of queries and keys of llama and baichuan."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def own_name(name):
    module, kind = name.rsplit(".", 1)
    if ".layers." in module:
        number, module = module.split(".layers.")[1].split(".", 1)
        return f"blk.{number}.{NAMES[module]}.{kind}"
    return f"{NAMES[module]}.{kind}"


def rope_factors(rope, head_dim):
    """Llama 3's, as the converter works them out."""
    factors = []
    for frequency in 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim):
        length, context = 2 * math.pi / float(frequency), rope["original_max_position_embeddings"]
        if length < context / rope["high_freq_factor"]:
            factors.append(1.0)
        elif length > context / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = (context / length - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return numpy.array(factors, dtype=numpy.float32)


def tokenizer(writer, vocabulary):
    tokens = [f"t{i}" for i in range(vocabulary)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([2] + [3] * 2 + [1] * (vocabulary - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def write(path, config, tensors):
    kind = config["model_type"]
    glm = kind == "chatglm"
    heads = config["num_attention_heads"]
    groups = config["multi_query_group_num"] if glm else config.get("num_key_value_heads", heads)
    hidden = config["hidden_size"]
    head_dim = config["kv_channels"] if glm else config.get("head_dim") or hidden // heads
    layers = config["num_layers" if glm else "num_hidden_layers"]
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name(path.stem)
    writer.add_block_count(layers)
    writer.add_context_length(config["seq_length"] if glm else config.get("max_position_embeddings") or config["model_max_length"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(config["ffn_hidden_size"] if glm else config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config["layernorm_epsilon"] if glm else config["rms_norm_eps"])
    rope = config.get("rope_parameters") or {"rope_theta": 10000.0}
    writer.add_rope_freq_base(rope["rope_theta"] * config.get("rope_ratio", 1))
    if kind in ["llama", "baichuan"]:
        writer.add_rope_dimension_count(head_dim)
    if glm:
        writer.add_rope_dimension_count(head_dim // 2)
    if kind in ["llama", "qwen3"]:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if kind == "llama":
        writer.add_vocab_size(config["vocab_size"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    tokenizer(writer, config["padded_vocab_size" if glm else "vocab_size"])

    def add(name, tensor):
        if kind in ["llama", "baichuan"] and ".attn_q." in name:
            tensor = permute(tensor, heads)
        if kind in ["llama", "baichuan"] and ".attn_k." in name:
            tensor = permute(tensor, groups)
        if tensor.dim() == 1:
            writer.add_tensor(name, tensor.float().numpy())
        elif (tensor.bfloat16().float() == tensor.float()).all():
            bytes_ = tensor.bfloat16().contiguous().view(torch.uint8).numpy()
            writer.add_tensor(name, bytes_, raw_shape=bytes_.shape, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, tensor.float().contiguous().numpy())

    for name, tensor in tensors.items():
        if name.endswith("inv_freq"):
            continue
        if "W_pack" in name:
            for part, rows in zip("qkv", tensor.chunk(3)):
                add(own_name(name.replace("W_pack", f"{part}_proj")), rows)
            continue
        if name == "lm_head.weight" and "z_loss_weight" in config:
            tensor = torch.nn.functional.normalize(tensor.float())
        add(own_name(name), tensor)
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(rope, head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_llama_cpp(path, ids):
    model = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, flash_attn=False)
    model.eval(ids)
    return torch.from_numpy(numpy.array(model.scores[: len(ids)]))


def check(path, ids, logits):
    found = by_llama_cpp(path, ids.tolist())
    off, largest = float((found - logits).abs().max()), float(logits.abs().max())
    print(f"{path.name}: llama.cpp is off by {off:.1e} of {largest:.1f}", flush=True)
    assert off <= 2e-2 * largest


def main():
    FOLDER.mkdir(exist_ok=True)
    for case in sorted(families.CASES):
        if case in BLOCKS:
            continue
        folder, path = families.FOLDER / case, FOLDER / f"{case}.gguf"
        config = json.loads((folder / "model" / "config.json").read_text())
        write(path, config, load_file(folder / "model" / "model.safetensors"))
        expected = load_file(folder / "expected.safetensors")
        check(path, expected["ids"][0], expected["logits"][0])
    for name, blocks in BLOCKS.items():
        case = families.CASES[name]
        sizes = dict(num_hidden_layers=blocks, hidden_size=20 if case.get("alibi") else 16, intermediate_size=8)
        case = {**case, "model": {**case["model"], **sizes}}
        model = families.build(case)
        tensors, config = families.baichuan(model, case)
        path = FOLDER / f"{name}.gguf"
        write(path, config, tensors)
        ids = torch.randint(0, families.VOCABULARY, (1, 32), generator=torch.Generator().manual_seed(case["seed"]))
        logits = families.logits(model, ids)
        save_file({"ids": ids.int(), "logits": logits}, FOLDER / f"{name}.safetensors")
        check(path, ids[0], logits[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
