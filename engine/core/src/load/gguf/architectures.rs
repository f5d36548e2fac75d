//! The architectures of GGUF files that are read: what llama.cpp computes for each, beside llama.

use super::names::{CHATGLM, LLAMA};
use crate::config::ModelConfig;
use crate::load::TensorNames;

/// One architecture, by the name that `general.architecture` has, which is also the prefix of its keys and the `model_type` of its
/// configuration.
pub(crate) struct Architecture {
    pub name: &'static str,
    pub names: TensorNames,
    /// Rows of query and key projections are stored with the two halves of each head interleaved, for rope on neighbouring numbers.
    pub permuted: bool,
    /// Rope is on neighbouring numbers in Hugging Face's files, too.
    pub interleaved: bool,
    /// Heads of queries and keys are normed.
    pub query_key_norm: bool,
    /// Blocks of a model that has ALiBi in place of rope. The files do not say; llama.cpp knows Baichuan-13B by its blocks.
    pub alibi_blocks: Option<usize>,
}

impl Architecture {
    /// Heads of a tensor of Llama's whose rows, or numbers of a bias, files permute.
    pub fn permuted_heads(&self, config: &ModelConfig, name: &str) -> Option<usize> {
        let (module, _) = name.rsplit_once('.').filter(|_| self.permuted)?;
        if module.ends_with("self_attn.q_proj") {
            Some(config.num_attention_heads)
        } else if module.ends_with("self_attn.k_proj") {
            Some(config.num_key_value_heads)
        } else {
            None
        }
    }
}

const PLAIN: Architecture = Architecture {
    name: "llama",
    names: LLAMA,
    permuted: true,
    interleaved: false,
    query_key_norm: false,
    alibi_blocks: None,
};

/// All of them. Mistral's files are of llama.
pub(super) static ARCHITECTURES: [Architecture; 5] = [
    PLAIN,
    Architecture { name: "qwen2", permuted: false, ..PLAIN },
    Architecture { name: "qwen3", permuted: false, query_key_norm: true, ..PLAIN },
    Architecture { name: "baichuan", alibi_blocks: Some(40), ..PLAIN },
    Architecture { name: "chatglm", names: CHATGLM, permuted: false, interleaved: true, ..PLAIN },
];

/// The architecture of files of a `model_type`.
pub(crate) fn architecture_of(model_type: &str) -> Option<&'static Architecture> {
    let name = if model_type == "mistral" { "llama" } else { model_type };
    ARCHITECTURES.iter().find(|architecture| architecture.name == name)
}
