//! Frozen matrices on the GPU.

use std::sync::Arc;

use luthier_kernels::{BlockScales, DevicePointer, NumberType};

use super::memory::{Allocation, CudaIndices, Memory};
use super::pinned::Pinned;
use crate::error::{EngineError, Result};
use crate::ops::EmbeddingPlace;
use crate::quant::four_bit::CodeBook;
use crate::quant::{DYNAMIC_MAP, MatrixForm, Scales};
use crate::tensor::{HostTensor, StoredType};

/// A frozen matrix `[rows, columns]`.
pub struct CudaWeight {
    numbers: Numbers,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The type in which a matrix's numbers are held plainly; none: as codes.
fn plain_type(stored: StoredType) -> Option<NumberType> {
    match stored {
        StoredType::F32 => Some(NumberType::F32),
        StoredType::F16 => Some(NumberType::F16),
        StoredType::BF16 => Some(NumberType::BF16),
        StoredType::Ggml(_) | StoredType::Int8 | StoredType::Nf4 | StoredType::Fp4 => None,
    }
}

/// Bytes of [`CudaWeight::new`]: those of the tensor, and what 4-bit codes are looked up in.
pub(super) fn bytes(form: &MatrixForm) -> u64 {
    let (plain, codes) = form.scales();
    // The values of 4-bit codes, and those of their scales' codes.
    let tables = form.stored.code_book().map_or(0, |book| book.values.len());
    let code_book = if form.double_quant { DYNAMIC_MAP.len() } else { 0 };
    (form.code_bytes() + (plain + tables + code_book) * size_of::<f32>() + codes) as u64
}

/// Whether products of type `compute` read a matrix where it is; others need it converted.
pub(super) fn is_held_as(form: &MatrixForm, compute: NumberType) -> bool {
    plain_type(form.stored) == Some(compute)
}

/// Whether [`CudaWeight::embedding`] takes an embedding table into locked host memory, where the host locks so much.
pub(super) fn is_placed_on_host(form: &MatrixForm, place: EmbeddingPlace) -> bool {
    place == EmbeddingPlace::Host && !form.stored.is_coded()
}

/// How its numbers are held.
enum Numbers {
    Plain {
        kind: NumberType,
        numbers: Place,
    },
    Int8 {
        codes: Allocation,
        scales: Allocation,
    },
    /// `tables`: what `scales` points into, and the values of codes at its start.
    FourBit {
        codes: Allocation,
        scales: BlockScales,
        tables: Allocation,
    },
    /// GGML blocks, scales and all. `block_type`: its name.
    Blocks {
        block_type: &'static str,
        blocks: Place,
    },
}

/// Memory of plain numbers or of blocks.
enum Place {
    Device(Allocation),
    /// Locked, of the host: kernels read it over the bus.
    Host(Pinned),
}

impl Place {
    fn bytes(&self) -> usize {
        match self {
            Self::Device(memory) => memory.bytes(),
            Self::Host(memory) => memory.bytes(),
        }
    }

    fn pointer(&self) -> DevicePointer {
        match self {
            Self::Device(memory) => memory.pointer,
            Self::Host(memory) => memory.pointer(),
        }
    }
}

impl CudaWeight {
    /// Takes every type as it is.
    pub(super) fn new(memory: &Arc<Memory>, tensor: &HostTensor) -> Result<Self> {
        let [rows, columns] = tensor.matrix()?;
        let bytes = tensor.bytes.as_slice();
        let plain =
            |kind| -> Result<_> { Ok(Numbers::Plain { kind, numbers: Place::Device(uploaded(memory, bytes)?) }) };
        let numbers = match (tensor.stored, &tensor.scales) {
            (StoredType::F32, _) => plain(NumberType::F32)?,
            (StoredType::F16, _) => plain(NumberType::F16)?,
            (StoredType::BF16, _) => plain(NumberType::BF16)?,
            (StoredType::Ggml(_), _) => {
                Numbers::Blocks { block_type: tensor.stored.name(), blocks: Place::Device(uploaded(memory, bytes)?) }
            }
            (StoredType::Int8, Some(Scales::Rows(scales))) => {
                let row_scales = Allocation::new(memory, size_of_val(&**scales))?;
                // SAFETY: the memory just allocated.
                unsafe { memory.stream.upload(scales, row_scales.pointer)? };
                Numbers::Int8 { codes: uploaded(memory, bytes)?, scales: row_scales }
            }
            (StoredType::Nf4 | StoredType::Fp4, Some(scales)) => {
                let book = tensor
                    .stored
                    .code_book()
                    .ok_or_else(|| EngineError::internal("4-bit codes without a code book"))?;
                let (scales, tables) = block_scales(memory, book, scales)?;
                Numbers::FourBit { codes: uploaded(memory, bytes)?, scales, tables }
            }
            (other, _) => {
                return Err(EngineError::internal(format!("a weight of {} has no scales for it", other.name())));
            }
        };
        // The host's pages may go away now.
        memory.stream.synchronize()?;
        Ok(Self { numbers, rows, columns })
    }

    /// Bytes of memory that hold it, on the device or of the host.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match &self.numbers {
            Numbers::Plain { numbers, .. } => numbers.bytes(),
            Numbers::Int8 { codes, scales } => codes.bytes() + scales.bytes(),
            Numbers::FourBit { codes, tables, .. } => codes.bytes() + tables.bytes(),
            Numbers::Blocks { blocks, .. } => blocks.bytes(),
        };
        bytes as u64
    }

    /// Takes an embedding table as [`Self::new`] does, into locked host memory where `place` says so. What is held as codes, and whatever the
    /// host does not lock memory for, goes to the device.
    pub(super) fn embedding(memory: &Arc<Memory>, tensor: &HostTensor, place: EmbeddingPlace) -> Result<Self> {
        let bytes = tensor.bytes.as_slice();
        let [rows, columns] = tensor.matrix()?;
        if tensor.stored.is_coded() {
            return Self::new(memory, tensor);
        }
        let pinned = (place == EmbeddingPlace::Host).then(|| Pinned::new(memory, bytes.len()));
        let Some(Ok(mut pinned)) = pinned else { return Self::new(memory, tensor) };
        pinned.fill(bytes);
        let numbers = Place::Host(pinned);
        let numbers = match plain_type(tensor.stored) {
            Some(kind) => Numbers::Plain { kind, numbers },
            None => Numbers::Blocks { block_type: tensor.stored.name(), blocks: numbers },
        };
        Ok(Self { numbers, rows, columns })
    }

    /// Where the numbers or their codes are.
    pub(super) fn place(&self) -> EmbeddingPlace {
        match &self.numbers {
            Numbers::Plain { numbers: Place::Host(_), .. } | Numbers::Blocks { blocks: Place::Host(_), .. } => {
                EmbeddingPlace::Host
            }
            _ => EmbeddingPlace::Device,
        }
    }

    /// Where the numbers lie as `kind`, if they are held so.
    pub(super) fn held_as(&self, kind: NumberType) -> Option<DevicePointer> {
        match &self.numbers {
            Numbers::Plain { kind: found, numbers } if *found == kind => Some(numbers.pointer()),
            _ => None,
        }
    }

    /// Writes the numbers as `kind` to `to`, which has room for all of them.
    pub(super) fn convert(&self, memory: &Memory, kind: NumberType, to: DevicePointer) -> Result<()> {
        let (stream, len) = (&memory.stream, self.rows * self.columns);
        // SAFETY: sizes were checked when the weight was taken; `to` is the caller's promise.
        let done = unsafe {
            match &self.numbers {
                Numbers::Plain { kind: from, numbers } => stream.convert([*from, kind], len, numbers.pointer(), to),
                Numbers::Int8 { codes, scales } => {
                    stream.dequantize_int8(kind, [self.rows, self.columns], codes.pointer, scales.pointer, to)
                }
                Numbers::FourBit { codes, scales, tables } => {
                    stream.dequantize_nf4(kind, len, codes.pointer, *scales, tables.pointer, to)
                }
                Numbers::Blocks { block_type, blocks } => {
                    stream.dequantize_blocks(block_type, kind, [self.rows, self.columns], blocks.pointer(), 0, to)
                }
            }
        };
        done.map_err(EngineError::from)
    }

    /// Writes the rows with these numbers, all below `rows`, as `kind` to `to`, which has room for them.
    ///
    /// Errors: `INTERNAL` where the weight is held as codes with scales beside them, which no embedding table is.
    pub(super) fn gather(
        &self,
        memory: &Memory,
        numbers: &CudaIndices,
        kind: NumberType,
        to: DevicePointer,
    ) -> Result<()> {
        let (stream, shape, ids) = (&memory.stream, [numbers.values.len(), self.columns], numbers.pointer());
        // SAFETY: sizes were checked when the weight was taken; numbers and `to` are the caller's promise.
        let done = unsafe {
            match &self.numbers {
                Numbers::Plain { kind: from, numbers } => {
                    stream.gather_rows([*from, kind], shape, numbers.pointer(), ids, to)
                }
                Numbers::Blocks { block_type, blocks } => {
                    stream.dequantize_blocks(block_type, kind, shape, blocks.pointer(), ids, to)
                }
                Numbers::Int8 { .. } | Numbers::FourBit { .. } => {
                    return Err(EngineError::internal(
                        "an embedding table is held as int8, nf4 or fp4; expected it as stored",
                    ));
                }
            }
        };
        done.map_err(EngineError::from)
    }
}

fn uploaded(memory: &Arc<Memory>, bytes: &[u8]) -> Result<Allocation> {
    let allocation = Allocation::new(memory, bytes.len())?;
    // SAFETY: the memory just allocated.
    unsafe { memory.upload(bytes, allocation.pointer)? };
    Ok(allocation)
}

/// The values of codes, then a weight's scales, in one allocation.
fn block_scales(memory: &Arc<Memory>, book: &CodeBook, scales: &Scales) -> Result<(BlockScales, Allocation)> {
    let mut tables: Vec<f32> = book.values.to_vec();
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
        Scales::Rows(_) => return Err(EngineError::internal("a weight of 4-bit codes has scales of rows")),
    };
    let allocation = Allocation::new(memory, size_of_val(&*tables) + codes.len())?;
    let place = |numbers: usize| allocation.pointer + (numbers * size_of::<f32>()) as u64;
    let after = place(tables.len());
    // SAFETY: the memory just allocated.
    unsafe {
        memory.stream.upload(&tables, allocation.pointer)?;
        memory.stream.upload(codes, after)?;
    }
    let values = book.values.len();
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
