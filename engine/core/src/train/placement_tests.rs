//! Plans on a device beside whose memory there is another, as a GPU's: what is kept on the host is told apart, and offloading is suggested.

use super::config::tests::config;
use super::config::{Recompute, TrainConfig};
use super::memory_plan::{MemoryEstimate, MemoryRequest};
use super::optimizer::OptimizerPlan;
use crate::config::{ModelConfig, Variant};
use crate::error::Result;
use crate::lora::{LoraConfig, LoraLayout, LowRank};
use crate::model::{LINEAR_MODULES, TensorSource, TokenExamples, WeightForms};
use crate::ops::{EmbeddingPlace, MemoryPrices, MemoryRoom, PlacedBytes, ScratchDemand};
use crate::quant::{MatrixForm, WeightStorage};
use crate::tensor::{HostTensor, StoredType};

const LAYERS: usize = 8;
const HIDDEN: usize = 256;
const HEADS: usize = 4;
const VOCABULARY: usize = 1000;
const TOKENS: usize = 256;

/// Activations of two bytes, as on a GPU.
struct Prices;

impl MemoryPrices for Prices {
    fn buffer(&self, len: usize) -> u64 {
        4 * len as u64
    }
    fn activations(&self, len: usize) -> u64 {
        2 * len as u64
    }
    fn indices(&self, capacity: usize) -> u64 {
        4 * capacity as u64
    }
    fn parked(&self, len: usize) -> PlacedBytes {
        PlacedBytes { device: 0, pinned_host: self.activations(len) }
    }
    fn adapter_copy(&self, len: usize) -> u64 {
        self.activations(len)
    }
    fn weight(&self, form: &MatrixForm) -> u64 {
        form.host_bytes()
    }
    fn held_weight(&self, form: &MatrixForm) -> u64 {
        self.weight(form)
    }
    fn is_on_host(&self, _: &MatrixForm, place: EmbeddingPlace) -> bool {
        place == EmbeddingPlace::Host
    }
    fn scratch(&self, _: &ScratchDemand<'_>) -> u64 {
        0
    }
    fn logits_at_once(&self) -> usize {
        1 << 20
    }
    fn margin(&self, _: u64) -> u64 {
        0
    }
}

struct Model(ModelConfig);

impl Model {
    fn new(tie_word_embeddings: bool) -> Self {
        Self(ModelConfig {
            model_type: "llama".to_owned(),
            vocab_size: VOCABULARY,
            hidden_size: HIDDEN,
            intermediate_size: HIDDEN,
            num_hidden_layers: LAYERS,
            num_attention_heads: HEADS,
            num_key_value_heads: HEADS,
            head_dim: HIDDEN / HEADS,
            sliding_window: None,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings,
            variant: Variant::default(),
            eos_token_ids: vec![0],
            bos_token_id: None,
        })
    }

    fn forms(&self, embedding: EmbeddingPlace) -> WeightForms {
        WeightForms::read(self, WeightStorage::Stored, embedding).unwrap()
    }
}

impl TensorSource for Model {
    fn config(&self) -> &ModelConfig {
        &self.0
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        panic!("the numbers of {name} were asked for")
    }

    fn form(&self, name: &str) -> Result<MatrixForm> {
        let linear = LINEAR_MODULES.iter().find(|module| name.contains(module.name()));
        let (rows, columns) = linear.map_or((VOCABULARY, HIDDEN), |module| module.shape(&self.0));
        Ok(MatrixForm { rows, columns, stored: StoredType::BF16, double_quant: false, mapped: false })
    }
}

/// One example, all of it labelled.
fn examples() -> TokenExamples {
    TokenExamples { input_ids: vec![1; TOKENS], labels: vec![1; TOKENS], offsets: vec![0, TOKENS as u32] }
}

fn estimate(free_bytes: Option<u64>, config: &TrainConfig) -> MemoryEstimate {
    let (model, train) = (Model::new(true), examples());
    let layout = LoraLayout::new(&model.0, |_, _| Some(LowRank { r: 2, scale: 1.0 }));
    let optimizer = OptimizerPlan::new(config, &layout);
    let request = MemoryRequest {
        prices: &Prices,
        room: MemoryRoom { free_bytes, scratch_bytes: 0 },
        model: &model.0,
        weights: &model.forms(EmbeddingPlace::Device),
        loaded: false,
        config,
        layout: &layout,
        train: &train,
        evaluation: None,
        optimizer: &optimizer,
    };
    request.estimate()
}

fn settings(recompute_layers: Recompute, offload_activations: bool) -> TrainConfig {
    TrainConfig { recompute_layers, offload_activations, ..config() }
}

#[test]
fn parked_layer_inputs_are_on_the_host_and_not_on_the_device() {
    let (stream, sums) = ((2 * TOKENS * HIDDEN) as i64, (4 * TOKENS * HEADS) as i64);
    for recomputed in 0..=LAYERS {
        let plan = |offload| estimate(None, &settings(Recompute::Layers(recomputed), offload)).plan;
        let (kept, away) = (plan(false), plan(true));
        // So few stay where they are.
        let parked = if recomputed > 2 { recomputed as i64 } else { 0 };
        assert_eq!(kept.pinned_host_bytes, 0);
        // Of each block its input, values, attention's output and the stream after it: here all of one size.
        assert_eq!(away.pinned_host_bytes as i64, parked * 4 * stream, "{recomputed} recomputed");
        // The inputs but for two buffers; against that a second set of buffers for the others, and each block's sums.
        let saved = if parked > 0 { (parked - 2 - 3) * stream - parked * sums } else { 0 };
        assert_eq!(kept.total_bytes() as i64 - away.total_bytes() as i64, saved, "{recomputed} recomputed");
    }
}

#[test]
fn dropout_takes_a_copy_of_the_widest_input() {
    let bytes = |lora_dropout| {
        let lora = LoraConfig { lora_dropout, ..config().lora };
        estimate(None, &TrainConfig { lora, ..config() }).plan.total_bytes()
    };
    assert_eq!(bytes(0.1) - bytes(0.0), (2 * TOKENS * HIDDEN) as u64);
}

#[test]
fn offloading_is_suggested_where_it_makes_a_run_fit() {
    let all = |offload| settings(Recompute::All, offload);
    let away = estimate(None, &all(true)).plan;
    let memory = estimate(Some(away.total_bytes()), &all(false));
    assert!(!memory.fits);
    let found = memory.suggestions.iter().find(|found| found.offload_activations).unwrap();
    assert_eq!((found.total_bytes, found.recompute_layers), (away.total_bytes(), None));
    assert!(found.to_string().starts_with("offload_activations ("), "{found}");
    assert!(estimate(Some(away.total_bytes()), &all(true)).fits);
    // More blocks must be recomputed with it where fewer were asked for.
    let memory = estimate(Some(away.total_bytes()), &settings(Recompute::Layers(0), false));
    let found = memory.suggestions.iter().find(|found| found.offload_activations).unwrap();
    assert_eq!(found.recompute_layers, Some(LAYERS));
    // Asked for already, it is no advice; and a refusal tells what the host would lock.
    let memory = estimate(Some(away.total_bytes() - 1), &all(true));
    assert!(memory.suggestions.iter().all(|found| !found.offload_activations), "{:?}", memory.suggestions);
    let message = memory.refusal().unwrap().message;
    assert!(message.contains("4.00 MiB locked in the host's memory"), "{message}");
}

#[test]
fn a_table_on_the_host_takes_none_of_the_device() {
    let table = (2 * VOCABULARY * HIDDEN) as u64;
    let bytes = |tied, place| {
        let forms = Model::new(tied).forms(place);
        (forms.bytes(&Prices), forms.held_bytes(&Prices), forms.pinned_host_bytes(&Prices))
    };
    let (device, host) = (bytes(false, EmbeddingPlace::Device), bytes(false, EmbeddingPlace::Host));
    assert_eq!((device.0 - host.0, device.1 - host.1, host.2), (table, table, table));
    // The output layer stays.
    assert_eq!(bytes(true, EmbeddingPlace::Host), bytes(true, EmbeddingPlace::Device));
}
