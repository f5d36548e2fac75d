//! Tensor names: llama.cpp's to Hugging Face's.

/// The Hugging Face name of a llama-type GGUF tensor, or `None` for a tensor that this architecture does not have.
pub(super) fn hugging_face_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    // Only the plain decimal form: `blk.01` and `blk.+1` are not names that llama.cpp writes.
    let number: usize = layer.parse().ok().filter(|number: &usize| number.to_string() == layer)?;
    let module = match part {
        "attn_norm.weight" => "input_layernorm",
        "attn_q.weight" => "self_attn.q_proj",
        "attn_k.weight" => "self_attn.k_proj",
        "attn_v.weight" => "self_attn.v_proj",
        "attn_output.weight" => "self_attn.o_proj",
        "ffn_norm.weight" => "post_attention_layernorm",
        "ffn_gate.weight" => "mlp.gate_proj",
        "ffn_up.weight" => "mlp.up_proj",
        "ffn_down.weight" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{number}.{module}.weight"))
}

#[cfg(test)]
mod tests {
    use super::hugging_face_name;

    #[test]
    fn names_follow_hugging_face() {
        assert_eq!(hugging_face_name("blk.12.ffn_down.weight").unwrap(), "model.layers.12.mlp.down_proj.weight");
        assert_eq!(hugging_face_name("output_norm.weight").unwrap(), "model.norm.weight");
        for unknown in ["blk.0.attn_q.bias", "blk.01.attn_q.weight", "blk.x.attn_q.weight", "rope_freqs.weight"] {
            assert_eq!(hugging_face_name(unknown), None, "{unknown}");
        }
    }
}
