//! Frozen matrices on the GPU.

use std::sync::Arc;

use luthier_kernels::{BlockScales, DevicePointer, NumberType};

use super::memory::{Allocation, Memory};
use crate::error::{EngineError, Result};
use crate::quant::{DYNAMIC_MAP, MatrixForm, Scales, dequantize_rows, nf4};
use crate::tensor::{HostTensor, StoredType};

/// Numbers that are dequantized on the host at once while a weight is taken.
const PIECE_NUMBERS: usize = 1 << 22;

/// A frozen matrix `[rows, columns]`.
pub struct CudaWeight {
    numbers: Numbers,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The type in which a matrix's numbers are held plainly; none: as codes.
fn plain_type(form: &MatrixForm, compute: NumberType) -> Option<NumberType> {
    match form.stored {
        StoredType::F32 => Some(NumberType::F32),
        StoredType::F16 => Some(NumberType::F16),
        StoredType::BF16 => Some(NumberType::BF16),
        StoredType::Ggml(_) => Some(compute),
        StoredType::Int8 | StoredType::Nf4 => None,
    }
}

/// Bytes of [`CudaWeight::new`].
pub(super) fn bytes(form: &MatrixForm, compute: NumberType) -> u64 {
    if let Some(kind) = plain_type(form, compute) {
        return (form.len() * kind.bytes()) as u64;
    }
    let (plain, codes) = form.scales();
    // The values of nf4's codes, and those of its scales' codes.
    let tables = if form.stored == StoredType::Nf4 { nf4::CODE_BOOK.len() } else { 0 };
    let code_book = if form.double_quant { DYNAMIC_MAP.len() } else { 0 };
    (form.code_bytes() + (plain + tables + code_book) * size_of::<f32>() + codes) as u64
}

/// Whether products of type `compute` read a matrix where it is; others need it converted.
pub(super) fn is_held_as(form: &MatrixForm, compute: NumberType) -> bool {
    plain_type(form, compute) == Some(compute)
}

/// How its numbers are held.
enum Numbers {
    Plain {
        kind: NumberType,
        numbers: Allocation,
    },
    Int8 {
        codes: Allocation,
        scales: Allocation,
    },
    /// `tables`: what `scales` points into, and the values of codes at its start.
    Nf4 {
        codes: Allocation,
        scales: BlockScales,
        tables: Allocation,
    },
}

impl CudaWeight {
    /// Takes f32, f16, bf16, int8 and nf4 as they are; GGML's block-quantized types are dequantized to `compute`.
    pub(super) fn new(memory: &Arc<Memory>, tensor: &HostTensor, compute: NumberType) -> Result<Self> {
        let [rows, columns] = tensor.matrix()?;
        let bytes = tensor.bytes.as_slice();
        let plain = |kind| -> Result<_> { Ok(Numbers::Plain { kind, numbers: uploaded(memory, bytes)? }) };
        let numbers = match (tensor.stored, &tensor.scales) {
            (StoredType::F32, _) => plain(NumberType::F32)?,
            (StoredType::F16, _) => plain(NumberType::F16)?,
            (StoredType::BF16, _) => plain(NumberType::BF16)?,
            (StoredType::Ggml(_), _) => {
                Numbers::Plain { kind: compute, numbers: dequantized(memory, tensor, [rows, columns], compute)? }
            }
            (StoredType::Int8, Some(Scales::Rows(scales))) => {
                Numbers::Int8 { codes: uploaded(memory, bytes)?, scales: uploaded(memory, scales)? }
            }
            (StoredType::Nf4, Some(scales)) => {
                let (scales, tables) = block_scales(memory, scales)?;
                Numbers::Nf4 { codes: uploaded(memory, bytes)?, scales, tables }
            }
            (other, _) => {
                return Err(EngineError::internal(format!("a weight of {} has no scales for it", other.name())));
            }
        };
        // The host's pages may go away now.
        memory.stream.synchronize()?;
        Ok(Self { numbers, rows, columns })
    }

    /// Where the numbers lie as `kind`, if they are held so.
    pub(super) fn held_as(&self, kind: NumberType) -> Option<DevicePointer> {
        self.plain().filter(|(found, _)| *found == kind).map(|(_, pointer)| pointer)
    }

    /// Type and place, where the numbers are held plainly.
    pub(super) fn plain(&self) -> Option<(NumberType, DevicePointer)> {
        match &self.numbers {
            Numbers::Plain { kind, numbers } => Some((*kind, numbers.pointer)),
            Numbers::Int8 { .. } | Numbers::Nf4 { .. } => None,
        }
    }

    /// Writes the numbers as `kind` to `to`, which has room for all of them.
    pub(super) fn convert(&self, memory: &Memory, kind: NumberType, to: DevicePointer) -> Result<()> {
        let (stream, len) = (&memory.stream, self.rows * self.columns);
        // SAFETY: sizes were checked when the weight was taken; `to` is the caller's promise.
        let done = unsafe {
            match &self.numbers {
                Numbers::Plain { kind: from, numbers } => stream.convert([*from, kind], len, numbers.pointer, to),
                Numbers::Int8 { codes, scales } => {
                    stream.dequantize_int8(kind, [self.rows, self.columns], codes.pointer, scales.pointer, to)
                }
                Numbers::Nf4 { codes, scales, tables } => {
                    stream.dequantize_nf4(kind, len, codes.pointer, *scales, tables.pointer, to)
                }
            }
        };
        done.map_err(EngineError::from)
    }
}

fn uploaded<T: Copy>(memory: &Arc<Memory>, values: &[T]) -> Result<Allocation> {
    let allocation = Allocation::new(memory, size_of_val(values))?;
    // SAFETY: the memory just allocated.
    unsafe { memory.stream.upload(values, allocation.pointer)? };
    Ok(allocation)
}

/// The values of codes, then a weight's scales, in one allocation.
fn block_scales(memory: &Arc<Memory>, scales: &Scales) -> Result<(BlockScales, Allocation)> {
    let mut tables: Vec<f32> = nf4::CODE_BOOK.to_vec();
    let mut found = BlockScales { plain: 0, codes: 0, absmax: 0, code_book: 0, offset: 0.0 };
    let codes: &[u8] = match scales {
        Scales::Blocks(plain) => {
            tables.extend_from_slice(plain);
            &[]
        }
        Scales::Nested(nested) => {
            tables.extend_from_slice(&nested.code_book);
            tables.extend_from_slice(&nested.absmax);
            found.offset = nested.offset;
            &nested.codes
        }
        Scales::Rows(_) => return Err(EngineError::internal("a weight of nf4 has scales of rows")),
    };
    let allocation = Allocation::new(memory, size_of_val(&*tables) + codes.len())?;
    let place = |numbers: usize| allocation.pointer + (numbers * size_of::<f32>()) as u64;
    let after = place(tables.len());
    // SAFETY: the memory just allocated.
    unsafe {
        memory.stream.upload(&tables, allocation.pointer)?;
        memory.stream.upload(codes, after)?;
    }
    let values = nf4::CODE_BOOK.len();
    match scales {
        Scales::Nested(nested) => {
            found.code_book = place(values);
            found.absmax = place(values + nested.code_book.len());
            found.codes = after;
        }
        Scales::Blocks(_) | Scales::Rows(_) => found.plain = place(values),
    }
    Ok((found, allocation))
}

fn dequantized(
    memory: &Arc<Memory>,
    tensor: &HostTensor,
    [rows, columns]: [usize; 2],
    kind: NumberType,
) -> Result<Allocation> {
    let allocation = Allocation::new(memory, rows * columns * kind.bytes())?;
    let at_once = (PIECE_NUMBERS / columns).clamp(1, rows);
    let mut numbers = vec![0f32; at_once * columns];
    for first in (0..rows).step_by(at_once) {
        let numbers = &mut numbers[..(rows - first).min(at_once) * columns];
        dequantize_rows(tensor, first, numbers);
        let to = allocation.pointer + (first * columns * kind.bytes()) as u64;
        // SAFETY: rows of this weight.
        unsafe { memory.upload_as(kind, numbers, to)? };
    }
    Ok(allocation)
}
