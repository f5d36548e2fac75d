//! Adapters of layers that a model's files keep as one, such as Baichuan's `W_pack` of queries, keys and values: taken apart when read, joined when
//! written.
//!
//! PEFT gives the fused layer one A and one B, whose rows are those of the parts one under another. Read, every part gets that A and its rows of B:
//! the same function. Training then moves the parts' A's apart. Written, the fused layer has all of the parts' A's one under another, and their B's
//! along the diagonal: n parts of rank r make rank n·r, which `rank_pattern` says, with `alpha_pattern` so that the scale stays. Such matrices are
//! taken apart into what they were joined from.

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
}

/// Matrices of a module of the files; their rank may be more than the adapter's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FileModule {
    pub rank: usize,
    pub matrices: LoraMatrices,
}

impl PeftNames {
    /// Those of a model's family.
    pub fn new(config: &ModelConfig) -> Self {
        let out_features = LINEAR_MODULES.map(|module| module.shape(config).0);
        Self { names: names_of(&config.model_type), out_features }
    }

    fn out_features(&self, path: &str) -> usize {
        let module = LINEAR_MODULES.into_iter().find(|module| path.ends_with(module.path()));
        module.map_or(0, |module: LinearModule| self.out_features[module as usize])
    }

    /// The name in files of the module that a linear layer of a block is, or is a part of.
    pub fn in_files(&self, path: &str) -> String {
        self.names.of_module(path).0
    }

    /// A file's module as the linear layers in it, each of rank `r`. The error says why that cannot be.
    pub(super) fn split(
        &self,
        path: &str,
        FileModule { rank, matrices }: FileModule,
        r: usize,
    ) -> Result<Vec<(String, LoraMatrices)>, String> {
        let parts = self.names.in_module(path);
        if parts.len() == 1 && rank == r {
            return Ok(parts.into_iter().map(|part| (part, matrices.clone())).collect());
        }
        let widths: Vec<usize> = parts.iter().map(|part| self.out_features(part)).collect();
        let (found, expected) = (matrices.out_features, widths.iter().sum::<usize>());
        if parts.len() > 1 && found != expected {
            return Err(format!("lora_B has {found} rows; the model's layer has {expected}"));
        }
        let joined = rank == parts.len() * r;
        if rank != r && !(joined && is_block_diagonal(&matrices, &widths, r)) {
            return Err(format!("its rank is {rank}, that of others {r}; one rank for all is supported"));
        }
        let (LoraMatrices { in_features, a, b, .. }, mut first) = (matrices, 0);
        let mut modules = Vec::new();
        for (index, (part, width)) in parts.into_iter().zip(widths).enumerate() {
            let (rows, column) = (first..first + width, if joined { index * r } else { 0 });
            first += width;
            let a = a[column * in_features..(column + r) * in_features].to_vec();
            let b = rows.flat_map(|row| &b[row * rank + column..row * rank + column + r]).copied().collect();
            // A part that had no adapter was joined as zeros, which no A of an adapter is.
            if !joined || a.iter().any(|value| *value != 0.0) {
                modules.push((part, LoraMatrices { in_features, out_features: width, a, b }));
            }
        }
        Ok(modules)
    }

    /// The modules of files that hold an adapter's, whose rank is `r`.
    pub(super) fn join(&self, modules: &BTreeMap<String, LoraMatrices>, r: usize) -> BTreeMap<String, FileModule> {
        let mut joined: BTreeMap<String, FileModule> = BTreeMap::new();
        for (path, matrices) in modules {
            let (own, parts) = self.names.of_module(path);
            if parts.len() == 1 {
                joined.insert(own, FileModule { rank: r, matrices: matrices.clone() });
                continue;
            }
            let (in_features, rank) = (matrices.in_features, parts.len() * r);
            let widths = parts.iter().map(|part| self.out_features(part));
            let file = joined.entry(own).or_insert_with(|| {
                let out_features = widths.clone().sum();
                let (a, b) = (vec![0.0; rank * in_features], vec![0.0; out_features * rank]);
                FileModule { rank, matrices: LoraMatrices { in_features, out_features, a, b } }
            });
            let index = parts.iter().position(|part| part == path).unwrap_or(0);
            let first: usize = widths.take(index).sum();
            file.matrices.a[index * r * in_features..(index + 1) * r * in_features].copy_from_slice(&matrices.a);
            for (row, values) in matrices.b.chunks_exact(r).enumerate() {
                let at = (first + row) * rank + index * r;
                file.matrices.b[at..at + r].copy_from_slice(values);
            }
        }
        joined
    }
}

/// Whether B `[Σ widths, widths · r]` is zero outside its blocks `[width, r]`.
fn is_block_diagonal(matrices: &LoraMatrices, widths: &[usize], r: usize) -> bool {
    let blocks = widths.iter().enumerate().flat_map(|(index, width)| std::iter::repeat_n(index, *width));
    matrices
        .b
        .chunks_exact(widths.len() * r)
        .zip(blocks)
        .all(|(row, block)| row.iter().enumerate().all(|(column, value)| *value == 0.0 || column / r == block))
}
