//! llama.cpp's names for tensors, beside Llama's, under which the decoder asks for them.

use crate::load::TensorNames;

/// Of tensors that are no part of a block: the embedding table, the last norm, the output layer.
const OUTSIDE: [&str; 3] = ["token_embd", "output_norm", "output"];
/// Before a block's number.
const LAYERS: &str = "blk";

/// Of llama and its relatives, whose projections stand alone.
pub(super) const LLAMA: TensorNames = TensorNames {
    outside: OUTSIDE,
    layers: LAYERS,
    modules: &[
        ("attn_norm", &["input_layernorm"]),
        ("attn_q", &["self_attn.q_proj"]),
        ("attn_k", &["self_attn.k_proj"]),
        ("attn_v", &["self_attn.v_proj"]),
        ("attn_q_norm", &["self_attn.q_norm"]),
        ("attn_k_norm", &["self_attn.k_norm"]),
        ("attn_output", &["self_attn.o_proj"]),
        ("ffn_norm", &["post_attention_layernorm"]),
        ("ffn_gate", &["mlp.gate_proj"]),
        ("ffn_up", &["mlp.up_proj"]),
        ("ffn_down", &["mlp.down_proj"]),
    ],
};

/// Of chatglm, whose projections are fused as in its Hugging Face files.
pub(super) const CHATGLM: TensorNames = TensorNames {
    outside: OUTSIDE,
    layers: LAYERS,
    modules: &[
        ("attn_norm", &["input_layernorm"]),
        ("attn_qkv", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        ("attn_output", &["self_attn.o_proj"]),
        ("ffn_norm", &["post_attention_layernorm"]),
        ("ffn_up", &["mlp.gate_proj", "mlp.up_proj"]),
        ("ffn_down", &["mlp.down_proj"]),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_cpps() {
        let own = |path: &str| LLAMA.of_module(path).0;
        assert_eq!(own("model.layers.12.mlp.down_proj"), "blk.12.ffn_down");
        assert_eq!(own("model.layers.0.self_attn.q_norm"), "blk.0.attn_q_norm");
        assert_eq!([own("model.norm"), own("lm_head")], ["output_norm", "output"]);
        assert_eq!(CHATGLM.of_module("model.layers.3.mlp.up_proj").0, "blk.3.ffn_up");
    }
}
