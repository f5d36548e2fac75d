//! candle's autograd as an oracle: the same decoder written with its tensors.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use luthier_core::ModelConfig;
use luthier_core::model::{Dropout, Examples, IGNORED_LABEL, LinearModule, TokenExamples};
use luthier_core::ops::{Ops, View, ViewMut};

use super::model::{Computation, DROPOUT, PATTERNS, examples, few_labels, folder, peft};

struct Oracle {
    tensors: HashMap<String, Tensor>,
    config: ModelConfig,
    /// By module path: A, B, and the factor of their product.
    adapter: HashMap<String, (Var, Var, f64)>,
    /// By module path, for the rows of one example: 0 or 1 / (1 − p). Empty without dropout.
    masks: HashMap<String, Tensor>,
}

impl Oracle {
    fn new(case: &str, config: ModelConfig) -> Result<Self> {
        let device = Device::Cpu;
        let tensors = candle_core::safetensors::load(folder(case).join("model/model.safetensors"), &device)?;
        let peft = peft(case);
        let pair = |matrices: &luthier_core::lora::peft::LoraMatrices| -> Result<(Var, Var, f64)> {
            let a = Tensor::from_slice(&matrices.a, (matrices.r, matrices.in_features), &device)?;
            let b = Tensor::from_slice(&matrices.b, (matrices.out_features, matrices.r), &device)?;
            Ok((Var::from_tensor(&a)?, Var::from_tensor(&b)?, matrices.scale))
        };
        let adapter = peft.modules.iter().map(|(path, matrices)| Ok((path.clone(), pair(matrices)?)));
        Ok(Self { tensors, config, adapter: adapter.collect::<Result<_>>()?, masks: HashMap::new() })
    }

    fn linear(&self, path: &str, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.tensors[&format!("{path}.weight")].t()?)?;
        let Some((a, b, scale)) = self.adapter.get(path) else { return Ok(y) };
        let seen = self.masks.get(path).map_or_else(|| Ok(x.clone()), |mask| x * mask)?;
        y + (seen.matmul(&a.t()?)?.matmul(&b.t()?)? * *scale)?
    }

    fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let mean = (x.sqr()?.mean_keepdim(D::Minus1)? + self.config.rms_norm_eps)?;
        x.broadcast_div(&mean.sqrt()?)?.broadcast_mul(&self.tensors[&format!("{name}.weight")])
    }

    /// `[rows, heads * head_dim]` to `[heads, rows, head_dim]`.
    fn heads(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        x.reshape((x.dim(0)?, heads, self.config.head_dim))?.transpose(0, 1)?.contiguous()
    }

    fn rope(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, half) = (x.dim(1)?, self.config.head_dim / 2);
        let angle = |row: usize, i: usize| {
            row as f32 * (1.0 / (self.config.rope_theta as f32).powf(2.0 * i as f32 / self.config.head_dim as f32))
        };
        let angles: Vec<f32> =
            (0..rows).flat_map(|row| (0..half).map(move |i| (row, i))).map(|(row, i)| angle(row, i)).collect();
        let angles = Tensor::from_vec(angles, (1, rows, half), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let (first, second) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let left = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
        let right = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
        Tensor::cat(&[left, right], D::Minus1)
    }

    fn attention(&self, prefix: &str, x: &Tensor) -> Result<Tensor> {
        let (config, rows) = (&self.config, x.dim(0)?);
        let projected = |name: &str, heads| self.heads(&self.linear(&format!("{prefix}.{name}"), x)?, heads);
        let query = self.rope(&projected("q_proj", config.num_attention_heads)?)?;
        let groups = config.num_attention_heads / config.num_key_value_heads;
        let repeated = |x: Tensor| -> Result<Tensor> {
            let (heads, rows, width) = x.dims3()?;
            x.unsqueeze(1)?.expand((heads, groups, rows, width))?.reshape((heads * groups, rows, width))
        };
        let key = repeated(self.rope(&projected("k_proj", config.num_key_value_heads)?)?)?;
        let value = repeated(projected("v_proj", config.num_key_value_heads)?)?;
        let scores = (query.matmul(&key.transpose(1, 2)?.contiguous()?)? / (config.head_dim as f64).sqrt())?;
        let mask: Vec<f32> =
            (0..rows * rows).map(|at| if at % rows > at / rows { f32::NEG_INFINITY } else { 0.0 }).collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(mask, (1, rows, rows), &Device::Cpu)?)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        let output = weights.matmul(&value)?.transpose(0, 1)?.reshape((rows, config.query_size()))?;
        self.linear(&format!("{prefix}.o_proj"), &output)
    }

    /// Σ cross-entropy of one example.
    fn loss(&self, ids: &[u32], labels: &[i32]) -> Result<Tensor> {
        let ids = Tensor::from_slice(ids, ids.len(), &Device::Cpu)?;
        let table = &self.tensors["model.embed_tokens.weight"];
        let mut x = table.index_select(&ids, 0)?;
        for layer in 0..self.config.num_hidden_layers {
            let prefix = format!("model.layers.{layer}");
            let normed = self.norm(&format!("{prefix}.input_layernorm"), &x)?;
            x = (&x + self.attention(&format!("{prefix}.self_attn"), &normed)?)?;
            let normed = self.norm(&format!("{prefix}.post_attention_layernorm"), &x)?;
            let gate = self.linear(&format!("{prefix}.mlp.gate_proj"), &normed)?.silu()?;
            let up = self.linear(&format!("{prefix}.mlp.up_proj"), &normed)?;
            x = (&x + self.linear(&format!("{prefix}.mlp.down_proj"), &(gate * up)?)?)?;
        }
        let output = self.tensors.get("lm_head.weight").unwrap_or(table);
        let logits = self.norm("model.norm", &x)?.matmul(&output.t()?)?;
        let sums = logits.exp()?.sum(D::Minus1)?.log()?;
        let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        for (row, label) in labels.iter().skip(1).enumerate() {
            if let Ok(label) = usize::try_from(*label) {
                loss = (loss + (sums.get(row)? - logits.get(row)?.get(label)?)?)?;
            }
        }
        Ok(loss)
    }
}

/// The masks of a packed batch of all examples, cut to one of them. After attention, the last block computes labelled rows alone, and its masks cover
/// those; what is dropped in the others changes nothing.
fn masks(
    computation: &Computation<f32>,
    dropout: Dropout,
    examples: &TokenExamples,
    index: usize,
) -> HashMap<String, Tensor> {
    let (ops, rows) = (&computation.ops, examples.input_ids.len());
    let example = examples.offsets[index] as usize..examples.offsets[index + 1] as usize;
    // A row's label is the next position's, which a first position's would not be.
    let first = |position: usize| examples.offsets.contains(&(position as u32));
    let labelled = |row: &usize| row + 1 < rows && !first(row + 1) && examples.labels[row + 1] != IGNORED_LABEL;
    let last = computation.base.config.num_hidden_layers - 1;
    let after_attention = [LinearModule::Output, LinearModule::Gate, LinearModule::Up, LinearModule::Down];
    let mask = |lora: &luthier_core::lora::LoraModule| {
        let width = lora.in_features;
        let (mut ones, mut mask) = (ops.allocate(rows * width).unwrap(), ops.allocate(rows * width).unwrap());
        ops.write(&vec![1.0; rows * width], ViewMut::from(&mut ones)).unwrap();
        let drawn = dropout.mask(lora.layer, lora.module);
        ops.dropout(rows * width, drawn, View::from(&ones), false, ViewMut::from(&mut mask)).unwrap();
        let mut drawn = vec![0.0; rows * width];
        ops.read(View::from(&mask), &mut drawn).unwrap();
        let mut values = drawn.clone();
        if lora.layer == last && after_attention.contains(&lora.module) {
            for (from, row) in drawn.chunks_exact(width).zip((0..rows).filter(labelled)) {
                values[row * width..][..width].copy_from_slice(from);
            }
        }
        let mask = Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap();
        (lora.path(), mask.narrow(0, example.start, example.len()).unwrap())
    };
    computation.adapter.layout.modules().map(mask).collect()
}

fn against_autograd(case: &str, dropout: Option<Dropout>, examples: &TokenExamples) {
    let computation = Computation::<f32> { dropout, ..Computation::new(case) };
    let mut oracle = Oracle::new(case, computation.base.config.clone()).unwrap();
    let losses = (0..examples.len()).map(|index| {
        let (ids, labels) = examples.example(index);
        if let Some(dropout) = dropout {
            oracle.masks = masks(&computation, dropout, examples, index);
        }
        oracle.loss(ids, labels)
    });
    let expected = losses.reduce(|sum, loss| sum? + loss?).unwrap().unwrap();
    let grads = expected.backward().unwrap();

    let (loss, found) = computation.run(examples, &[0, 1, 2], 1.0);
    let expected = f64::from(expected.to_scalar::<f32>().unwrap());
    assert!((loss - expected).abs() < 1e-6 * expected, "{loss} {expected}");
    let layout = &computation.adapter.layout;
    for module in layout.modules() {
        let (a, b, _) = &oracle.adapter[&module.path()];
        for (half, offset, var) in [("A", module.a_offset, a), ("B", module.b_offset, b)] {
            let grad = grads.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let largest = grad.iter().fold(0f64, |largest, value| largest.max(f64::from(value.abs())));
            assert!(largest > 0.0);
            for (found, expected) in found[offset..].iter().zip(&grad) {
                let difference = (found - f64::from(*expected)).abs();
                assert!(difference < 1e-5 * largest, "{} {half}: off by {difference:e} of {largest}", module.path());
            }
        }
    }
}

#[test]
fn tied_with_grouped_heads() {
    against_autograd("tied", None, &examples());
}

#[test]
fn untied_with_some_targets() {
    against_autograd("untied", None, &examples());
}

#[test]
fn with_ranks_of_patterns() {
    against_autograd(PATTERNS, None, &examples());
}

/// y = W x + scale · B A (x ∘ mask / (1 − p)), as PEFT computes it, with the masks that the engine draws.
#[test]
fn with_dropout() {
    for case in ["tied", "untied", PATTERNS] {
        for examples in [examples(), few_labels()] {
            against_autograd(case, Some(DROPOUT), &examples);
        }
    }
}
