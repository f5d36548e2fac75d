//! Tensors of a checkpoint in host memory.

use std::collections::BTreeMap;

use crate::error::{EngineError, ErrorCode, Result};
use crate::ops::{Element, HostValues};

/// Flat tensors by name. What is empty is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostTensors {
    tensors: BTreeMap<String, HostValues>,
    /// Memory that is not used any more.
    spare: BTreeMap<String, HostValues>,
}

impl HostTensors {
    /// Of tensors that were read.
    pub fn new(tensors: BTreeMap<String, HostValues>) -> Self {
        Self { tensors, spare: BTreeMap::new() }
    }

    /// None yet; tensors of the same names and sizes take the memory of `earlier` ones.
    pub fn in_memory_of(earlier: Option<Self>) -> Self {
        Self { tensors: BTreeMap::new(), spare: earlier.map_or_else(BTreeMap::new, |earlier| earlier.tensors) }
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostValues)> {
        self.tensors.iter().map(|(name, values)| (name.as_str(), values))
    }

    /// Gives back what memory was not used.
    pub fn finish(mut self) -> Self {
        self.spare.clear();
        self
    }

    /// Adds `len` numbers that `read` fills in.
    pub fn read<E: Element>(
        &mut self,
        name: &str,
        len: usize,
        read: impl FnOnce(&mut [E]) -> Result<()>,
    ) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let spare = self.spare.remove(name).and_then(HostValues::into_numbers).filter(|values| values.len() == len);
        let mut values = spare.unwrap_or_else(|| vec![E::from_f64(0.0); len]);
        read(&mut values)?;
        self.tensors.insert(name.to_owned(), E::into_host(values));
        Ok(())
    }

    /// Adds `len` codes that `read` fills in.
    pub fn read_codes(&mut self, name: &str, len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let mut codes = match self.spare.remove(name) {
            Some(HostValues::Codes(codes)) if codes.len() == len => codes,
            _ => vec![0; len],
        };
        read(&mut codes)?;
        self.tensors.insert(name.to_owned(), HostValues::Codes(codes));
        Ok(())
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The `len` numbers of a tensor.
    ///
    /// Errors: `CHECKPOINT_MISMATCH` where there are none, others, or another number of them.
    pub fn numbers<E: Element>(&self, name: &str, len: usize) -> Result<&[E]> {
        if len == 0 {
            return Ok(&[]);
        }
        let found = self.tensors.get(name);
        let numbers = found.and_then(HostValues::numbers).filter(|values| values.len() == len);
        numbers.ok_or_else(|| other(name, found, std::any::type_name::<E>(), len))
    }

    /// As [`Self::numbers`], of codes.
    pub fn codes(&self, name: &str, len: usize) -> Result<&[u8]> {
        match self.tensors.get(name) {
            _ if len == 0 => Ok(&[]),
            Some(HostValues::Codes(codes)) if codes.len() == len => Ok(codes),
            found => Err(other(name, found, "u8", len)),
        }
    }
}

fn other(name: &str, found: Option<&HostValues>, kind: &str, len: usize) -> EngineError {
    let found = match found {
        None => "nothing".to_owned(),
        Some(HostValues::F32(values)) => format!("{} f32", values.len()),
        Some(HostValues::F64(values)) => format!("{} f64", values.len()),
        Some(HostValues::Codes(codes)) => format!("{} u8", codes.len()),
    };
    let message = format!(
        "the checkpoint has {found} as `{name}`; this run has {len} {kind}; go on with the settings and on the kind of device that it was taken with"
    );
    EngineError::new(ErrorCode::CheckpointMismatch, message)
}
