//! Adapters of layers that a model's files keep as one, such as Baichuan's `W_pack` of queries, keys and values: taken apart when read, joined when
//! written.
//!
//! PEFT gives the fused layer one A and one B, whose rows are those of the parts one under another. Read, every part gets that A and its rows of B:
//! the same function. Training then moves the parts' A's apart. Written, the fused layer has all of the parts' A's one under another, and their B's
//! along the diagonal: parts of rank r make n·r, which `rank_pattern` says, with `alpha_pattern` so that the scale stays. The file's metadata keep
//! the ranks of the parts, by which such matrices are taken apart into what they were joined from; without them every part has the whole rank.

use std::collections::BTreeMap;

use super::LoraMatrices;
use crate::config::ModelConfig;
use crate::load::{TensorNames, names_of};
use crate::model::{LINEAR_MODULES, LinearModule};

/// How an adapter's modules are named and fused in files.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftNames {
    names: &'static TensorNames,
    /// Of each linear layer of a block.
    out_features: [usize; 7],
    blocks: usize,
}

/// An adapter's modules by the names of files.
pub(super) struct JoinedModules {
    pub modules: BTreeMap<String, LoraMatrices>,
    /// Of the parts of those that were joined, in their order; 0: the part has no adapter.
    pub ranks: BTreeMap<String, Vec<usize>>,
}

impl PeftNames {
    /// Those of a model's family.
    pub fn new(config: &ModelConfig) -> Self {
        let out_features = LINEAR_MODULES.map(|module| module.shape(config).0);
        Self { names: names_of(&config.model_type), out_features, blocks: config.num_hidden_layers }
    }

    /// Whether files have Llama's names.
    pub(super) fn are_llamas(&self) -> bool {
        *self.names == TensorNames::LLAMA
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    fn out_features(&self, path: &str) -> usize {
        let module = LINEAR_MODULES.into_iter().find(|module| path.ends_with(module.path()));
        module.map_or(0, |module: LinearModule| self.out_features[module as usize])
    }

    /// The name in files of the module that a linear layer of a block is, or is a part of.
    pub fn in_files(&self, path: &str) -> String {
        self.names.of_module(path).0
    }

    /// A linear layer's path, and that of files where it is another.
    pub(crate) fn paths(&self, path: String) -> Vec<String> {
        let own = self.in_files(&path);
        if own == path { vec![path] } else { vec![path, own] }
    }

    /// The linear layers that a file's module holds; of another path, that path alone.
    pub(super) fn in_module(&self, path: &str) -> Vec<String> {
        self.names.in_module(path)
    }

    /// The tensors of files with their shapes, from Llama's.
    pub(super) fn stored(&self, expected: &BTreeMap<String, Vec<usize>>) -> BTreeMap<String, Vec<usize>> {
        self.names.locate(expected).0
    }

    /// The parts of a fused layer have one scale, since PEFT has one for the layer. The error names those that do not.
    pub(crate) fn check_scales<'a>(
        &self,
        modules: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> std::result::Result<(), String> {
        let mut known: BTreeMap<String, (&str, f64)> = BTreeMap::new();
        for (path, scale) in modules {
            let (own, parts) = self.names.of_module(path);
            if parts.len() == 1 {
                continue;
            }
            let (other, expected) = *known.entry(own.clone()).or_insert((path, scale));
            if (scale - expected).abs() > 1e-9 * expected.abs() {
                return Err(format!(
                    "`{path}` is scaled by {scale}, `{other}` by {expected}; both are parts of the fused layer `{own}`, whose parts must have one scale: give them ranks and alphas that go together"
                ));
            }
        }
        Ok(())
    }

    /// A file's module, whose shape is the model's, as the linear layers in it. `ranks`: of the parts that it was joined from.
    pub(super) fn split(
        &self,
        path: &str,
        matrices: LoraMatrices,
        ranks: Option<&[usize]>,
    ) -> Vec<(String, LoraMatrices)> {
        let parts = self.names.in_module(path);
        if parts.len() == 1 {
            return parts.into_iter().map(|part| (part, matrices.clone())).collect();
        }
        let widths: Vec<usize> = parts.iter().map(|part| self.out_features(part)).collect();
        let ranks = ranks.filter(|ranks| is_block_diagonal(&matrices, &widths, ranks));
        let LoraMatrices { r: rank, scale, in_features, a, b, .. } = matrices;
        let (mut row, mut column) = (0, 0);
        let mut modules = Vec::new();
        for (index, (part, width)) in parts.into_iter().zip(widths).enumerate() {
            let r = ranks.map_or(rank, |ranks| ranks[index]);
            let own_a = a[column * in_features..(column + r) * in_features].to_vec();
            let rows = row..row + width;
            let own_b = rows.flat_map(|row| &b[row * rank + column..row * rank + column + r]).copied().collect();
            row += width;
            column += if ranks.is_some() { r } else { 0 };
            if r > 0 {
                modules.push((part, LoraMatrices { r, scale, in_features, out_features: width, a: own_a, b: own_b }));
            }
        }
        modules
    }

    /// The modules of files that hold an adapter's. The error: as of [`Self::check_scales`].
    pub(super) fn join(&self, modules: &BTreeMap<String, LoraMatrices>) -> std::result::Result<JoinedModules, String> {
        self.check_scales(modules.iter().map(|(path, matrices)| (path.as_str(), matrices.scale)))?;
        let mut joined = JoinedModules { modules: BTreeMap::new(), ranks: BTreeMap::new() };
        for (path, matrices) in modules {
            let (own, parts) = self.names.of_module(path);
            if parts.len() == 1 {
                joined.modules.insert(own, matrices.clone());
            } else if !joined.modules.contains_key(&own) {
                let (whole, ranks) = self.join_parts(&parts, modules, matrices);
                joined.modules.insert(own.clone(), whole);
                joined.ranks.insert(own, ranks);
            }
        }
        Ok(joined)
    }

    /// A fused layer's matrices, and the rank of each part. `like`: one of the parts.
    fn join_parts(
        &self,
        parts: &[String],
        modules: &BTreeMap<String, LoraMatrices>,
        like: &LoraMatrices,
    ) -> (LoraMatrices, Vec<usize>) {
        let widths: Vec<usize> = parts.iter().map(|part| self.out_features(part)).collect();
        let ranks: Vec<usize> = parts.iter().map(|part| modules.get(part).map_or(0, |matrices| matrices.r)).collect();
        let (rank, out_features) = (ranks.iter().sum::<usize>(), widths.iter().sum::<usize>());
        let (mut a, mut b) = (Vec::with_capacity(rank * like.in_features), vec![0.0; out_features * rank]);
        let (mut first, mut column) = (0, 0);
        for (part, width) in parts.iter().zip(widths) {
            if let Some(matrices) = modules.get(part) {
                a.extend_from_slice(&matrices.a);
                for (row, values) in matrices.b.chunks_exact(matrices.r).enumerate() {
                    let at = (first + row) * rank + column;
                    b[at..at + matrices.r].copy_from_slice(values);
                }
                column += matrices.r;
            }
            first += width;
        }
        (LoraMatrices { r: rank, scale: like.scale, in_features: like.in_features, out_features, a, b }, ranks)
    }
}

/// Whether B `[Σ widths, Σ ranks]` is zero outside its blocks `[width, rank]`.
fn is_block_diagonal(matrices: &LoraMatrices, widths: &[usize], ranks: &[usize]) -> bool {
    let sum = ranks.iter().try_fold(0usize, |sum, rank| sum.checked_add(*rank));
    if ranks.len() != widths.len() || sum != Some(matrices.r) {
        return false;
    }
    let (mut row, mut column) = (0, 0);
    widths.iter().zip(ranks).all(|(width, rank)| {
        let (rows, columns) = (row..row + width, column..column + rank);
        (row, column) = (rows.end, columns.end);
        let zero_outside = |values: &[f32]| {
            values.iter().enumerate().all(|(column, value)| *value == 0.0 || columns.contains(&column))
        };
        matrices.b[rows.start * matrices.r..rows.end * matrices.r].chunks_exact(matrices.r).all(zero_outside)
    })
}
