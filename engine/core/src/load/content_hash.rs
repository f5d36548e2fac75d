//! Identity of a model's content: a SHA-256 tree over configuration and tensors.
//!
//! Leaves: each tensor's stored bytes (as they lie in the file, before any row is put right) in chunks of 4 MiB, each chunk hashed alone,
//! so that all threads hash at once; then those of scales that lie beside them, each part in chunks of its own. Root: SHA-256 over one text
//! line per part, in this order: `luthier-model-v1`, the configuration as one line, then for each tensor in order of its Hugging Face name
//! `<name> <stored type> <shape> <chunk hash> <chunk hash> …`, each line ended by `\n`.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::config::{ModelConfig, PositionEncoding, Rope, RopePairs, RopeScaling, Variant};
use crate::tensor::StoredType;

const CHUNK_BYTES: usize = 4 << 20;

/// One tensor as it lies in its file.
pub(super) struct HashedTensor<'a> {
    pub name: &'a str,
    pub stored: StoredType,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
    /// Of int8, nf4 and fp4: what their scales follow from.
    pub scales: Vec<&'a [u8]>,
}

impl HashedTensor<'_> {
    /// Bytes with scales.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.scales.iter().map(|part| part.len()).sum::<usize>()
    }

    fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.bytes).chain(&self.scales).flat_map(|part| part.chunks(CHUNK_BYTES))
    }
}

/// The tree hash of a model, in lower-case hex. `tensors` may come in any order.
pub(super) fn content_hash(config: &ModelConfig, mut tensors: Vec<HashedTensor<'_>>) -> String {
    tensors.sort_by_key(|tensor| tensor.name);
    let chunks: Vec<&[u8]> = tensors.iter().flat_map(HashedTensor::chunks).collect();
    let digests: Vec<String> = chunks.into_par_iter().map(|chunk| hex(&Sha256::digest(chunk))).collect();
    let mut digests = digests.into_iter();
    let mut root = Sha256::new();
    root.update(b"luthier-model-v1\n");
    root.update(config_line(config));
    for tensor in &tensors {
        root.update(format!("{} {} {:?}", tensor.name, tensor.stored.name(), tensor.shape));
        for digest in digests.by_ref().take(tensor.chunks().count()) {
            root.update(format!(" {digest}"));
        }
        root.update(b"\n");
    }
    hex(&root.finalize())
}

/// What decides the numbers a model computes; ids that only end or begin a sequence are left out.
fn config_line(config: &ModelConfig) -> String {
    // Nothing where there is none: such models keep the hash they had before windows were known.
    let window = config.sliding_window.map_or_else(String::new, |window| format!(" sliding_window={window}"));
    let variant = variant(&config.variant);
    format!(
        "{} vocab={} hidden={} intermediate={} layers={} heads={} kv_heads={} head_dim={} rms_norm_eps={:?} rope_theta={:?} tied={}{window}{variant}\n",
        config.model_type,
        config.vocab_size,
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.rms_norm_eps,
        config.rope_theta,
        config.tie_word_embeddings,
    )
}

/// Each departure from Llama as one word; nothing where there is none, as for windows.
fn variant(variant: &Variant) -> String {
    let mut words = Vec::new();
    match &variant.position {
        PositionEncoding::Alibi => words.push("alibi".to_owned()),
        PositionEncoding::Rope(Rope { pairs, rotated, scaling }) => {
            words.extend((*pairs == RopePairs::Interleaved).then(|| "interleaved".to_owned()));
            words.extend(rotated.map(|rotated| format!("rotated={rotated}")));
            match scaling {
                RopeScaling::None => {}
                RopeScaling::Linear { factor } => words.push(format!("linear={factor:?}")),
                RopeScaling::Factors(factors) => words.push(format!("factors={factors:?}").replace(' ', "")),
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                    words.push(format!(
                        "llama3={factor:?},{low_freq_factor:?},{high_freq_factor:?},{original_context:?}"
                    ));
                }
            }
        }
    }
    let flags = [
        (variant.query_key_value_bias, "query_key_value_bias"),
        (variant.output_bias, "output_bias"),
        (variant.mlp_bias, "mlp_bias"),
        (variant.query_key_norm, "query_key_norm"),
        (variant.normalized_head, "normalized_head"),
    ];
    words.extend(flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()));
    words.iter().map(|word| format!(" {word}")).collect()
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
