//! The processor as a device: its threads, its memory, and the dispatch of every operation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::adamw_8bit::{self, Moments};
use super::attention::{self, Backward, Workers};
use super::cached_attention;
use super::dropout;
use super::kernel::Segment;
use super::loss;
use super::memory::{CpuBuffer, CpuCodes, MemoryCounter};
use super::noise;
use super::parallel::{Disjoint, for_rows};
use super::pool::ThreadPool;
use super::prices::CpuPrices;
use super::product::{MAX_TERMS, Product, Right, ScratchPool, Term};
use super::real::Real;
use super::rows;
use super::weight::CpuWeight;
use crate::error::{EngineError, Result};
use crate::ops::view::{extent, outside};
use crate::ops::{
    AdamW, AdamW8bitState, AdamWState, AttentionGrads, AttentionInputs, AttentionSaved, AttentionShape, DropoutMask,
    EmbeddingPlace, LinearGradTerm, LowRankTerm, MOMENT_BLOCK, Matrix, MatrixMut, MemoryPrices, MemoryRoom, MemoryUse,
    Ops, RopePairs, RopeShape, UniformNoise, View, ViewMut,
};
use crate::system::available_bytes;
use crate::tensor::HostTensor;

/// Numbers of a weight that are dequantized at once for a gradient; weights stored as the device computes are read in place.
pub(super) const DEQUANTIZED_NUMBERS: usize = 1 << 22;
/// 96 MiB of f32.
pub(super) const LOGITS_AT_ONCE: usize = 24 << 20;
/// Numbers of one piece of a flat buffer; fixed, so that sums do not depend on the number of threads.
const FLAT_PIECE: usize = 1 << 14;

/// The processor. Cheap to share; one operation runs at a time.
pub struct CpuOps<E: Real> {
    pool: Mutex<ThreadPool>,
    threads: usize,
    scratch: ScratchPool<E>,
    /// The right sides of the products under way, packed.
    packed: Mutex<Vec<E>>,
    /// Dequantized weights and attention's gradients per head; grows to the largest use.
    wide: Mutex<Option<CpuBuffer<E>>>,
    counter: Arc<MemoryCounter>,
}

impl<E: Real> CpuOps<E> {
    /// A device that computes on `threads` threads (at least one), the calling thread among them.
    pub fn new(threads: usize) -> Self {
        let pool = ThreadPool::new(threads);
        Self {
            threads: pool.threads(),
            pool: Mutex::new(pool),
            scratch: ScratchPool::new(),
            packed: Mutex::default(),
            wide: Mutex::new(None),
            counter: Arc::default(),
        }
    }

    /// Threads at work in an operation.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Refuses buffers beyond so many bytes, those allocated now among them: a share of a machine's memory.
    pub fn limit_memory(&self, bytes: u64) {
        self.counter.set_limit(bytes);
    }

    /// Instruction set of the matrix kernels: `avx512`, `avx2` or `scalar`.
    pub fn instruction_set(&self) -> &'static str {
        E::kernels().name
    }

    fn pool(&self) -> MutexGuard<'_, ThreadPool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn packed(&self) -> MutexGuard<'_, Vec<E>> {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` with scratch of at least `len` numbers, which hold anything.
    fn with_wide<R>(&self, len: usize, work: impl FnOnce(&mut [E]) -> R) -> Result<R> {
        let mut wide = self.wide.lock().unwrap_or_else(PoisonError::into_inner);
        if wide.as_ref().is_none_or(|buffer| buffer.as_slice().len() < len) {
            *wide = None;
            *wide = Some(CpuBuffer::new(len, &self.counter)?);
        }
        match wide.as_mut() {
            Some(buffer) => Ok(work(&mut buffer.as_mut_slice()[..len])),
            None => Err(EngineError::internal("scratch memory was not made")),
        }
    }

    fn run(&self, product: &Product<'_, E>) {
        if product.m == 0 || product.n == 0 {
            return;
        }
        // SAFETY: every caller in this file has checked the extent of each operand, and `c` is borrowed alone.
        unsafe { product.run(&mut self.pool(), &self.scratch, &mut self.packed()) }
    }
}

fn slice<'a, E>(view: View<'a, CpuBuffer<E>>, len: usize) -> Result<&'a [E]> {
    let all = view.buffer.as_slice();
    view.offset
        .checked_add(len)
        .and_then(|end| all.get(view.offset..end))
        .ok_or_else(|| outside(all.len(), view.offset, len))
}

fn slice_mut<'a, E>(view: ViewMut<'a, CpuBuffer<E>>, len: usize) -> Result<&'a mut [E]> {
    let all = view.buffer.as_mut_slice();
    let found = all.len();
    view.offset
        .checked_add(len)
        .and_then(|end| all.get_mut(view.offset..end))
        .ok_or_else(|| outside(found, view.offset, len))
}

fn codes_mut(codes: &mut CpuCodes, from: usize, len: usize) -> Result<&mut [u8]> {
    let found = codes.codes.len();
    from.checked_add(len).and_then(|end| codes.codes.get_mut(from..end)).ok_or_else(|| outside(found, from, len))
}

fn left<E>(matrix: &Matrix<'_, CpuBuffer<E>>, rows: usize, k: usize) -> Result<Segment<E>> {
    let Matrix { view, row_stride, column_stride } = *matrix;
    let a = slice(view, extent(rows, k, row_stride, column_stride))?.as_ptr();
    Ok(Segment { a, row_stride, column_stride, k })
}

fn right<'a, E>(matrix: &Matrix<'a, CpuBuffer<E>>, k: usize, columns: usize) -> Result<Right<'a, E>> {
    let Matrix { view, row_stride, column_stride } = *matrix;
    let start = slice(view, extent(k, columns, row_stride, column_stride))?.as_ptr();
    Ok(Right::Strided { start, row_stride, column_stride })
}

fn low_rank_term<'a, E>(term: &LowRankTerm<'a, CpuBuffer<E>>, rows: usize, columns: usize) -> Result<Term<'a, E>> {
    Ok(Term { left: left(&term.left, rows, term.rank)?, right: right(&term.right, term.rank, columns)? })
}

impl<E: Real> Ops for CpuOps<E> {
    type Elem = E;
    type Buffer = CpuBuffer<E>;
    type Indices = Vec<u32>;
    type Weight = CpuWeight;
    type Parked = CpuBuffer<E>;
    type Codes = CpuCodes;
    const LOGITS_AT_ONCE: usize = LOGITS_AT_ONCE;

    fn allocate(&self, len: usize) -> Result<CpuBuffer<E>> {
        CpuBuffer::new(len, &self.counter)
    }

    fn allocate_activations(&self, len: usize) -> Result<CpuBuffer<E>> {
        self.allocate(len)
    }

    fn allocate_indices(&self, capacity: usize) -> Result<Vec<u32>> {
        Ok(Vec::with_capacity(capacity))
    }

    fn allocate_codes(&self, len: usize) -> Result<CpuCodes> {
        CpuCodes::new(len, &self.counter)
    }

    fn read_codes(&self, from: &CpuCodes, codes: &mut [u8]) -> Result<()> {
        let found = from.codes.get(..codes.len()).ok_or_else(|| outside(from.codes.len(), 0, codes.len()))?;
        codes.copy_from_slice(found);
        Ok(())
    }

    fn write_codes(&self, codes: &[u8], to: &mut CpuCodes) -> Result<()> {
        codes_mut(to, 0, codes.len())?.copy_from_slice(codes);
        Ok(())
    }

    fn environment(&self) -> BTreeMap<String, String> {
        [
            ("device", "cpu".to_owned()),
            ("instruction set", self.instruction_set().to_owned()),
            ("threads", self.threads.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn upload_weight(&self, tensor: HostTensor) -> Result<CpuWeight> {
        CpuWeight::new(tensor, &self.counter)
    }

    fn upload_embedding(&self, tensor: HostTensor, _: EmbeddingPlace) -> Result<CpuWeight> {
        self.upload_weight(tensor)
    }

    fn embedding_place(&self, _: &CpuWeight) -> EmbeddingPlace {
        EmbeddingPlace::Device
    }

    fn weight_shape(&self, weight: &CpuWeight) -> (usize, usize) {
        (weight.rows(), weight.columns())
    }

    fn weight_bytes(&self, weight: &CpuWeight) -> u64 {
        weight.tensor().size_bytes() as u64
    }

    fn upload_dequantized(&self, tensor: &HostTensor) -> Result<CpuBuffer<E>> {
        let len = tensor.shape.iter().product();
        let weight = CpuWeight::new(HostTensor { shape: vec![1, len], ..tensor.clone() }, &self.counter)?;
        let mut buffer = self.allocate(len)?;
        weight.dequantize_rows(0, buffer.as_mut_slice());
        Ok(buffer)
    }

    fn write(&self, values: &[E], to: ViewMut<'_, CpuBuffer<E>>) -> Result<()> {
        slice_mut(to, values.len())?.copy_from_slice(values);
        Ok(())
    }

    fn write_indices(&self, values: &[u32], to: &mut Vec<u32>) -> Result<()> {
        to.clear();
        to.extend_from_slice(values);
        Ok(())
    }

    fn read(&self, from: View<'_, CpuBuffer<E>>, values: &mut [E]) -> Result<()> {
        values.copy_from_slice(slice(from, values.len())?);
        Ok(())
    }

    fn allocate_parked(&self, len: usize) -> Result<CpuBuffer<E>> {
        self.allocate(len)
    }

    fn park(&self, len: usize, from: &CpuBuffer<E>, to: &mut CpuBuffer<E>) -> Result<()> {
        self.read(from.into(), slice_mut(to.into(), len)?)
    }

    fn fetch(&self, len: usize, from: &CpuBuffer<E>, to: &mut CpuBuffer<E>) -> Result<()> {
        self.park(len, from, to)
    }

    fn memory(&self) -> MemoryUse {
        self.counter.current()
    }

    fn prices(&self) -> Box<dyn MemoryPrices + '_> {
        Box::new(CpuPrices { element: size_of::<E>() })
    }

    fn room(&self) -> MemoryRoom {
        let wide = self.wide.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.counter.left();
        // Without a limit nearly every number is left.
        let free_bytes = available_bytes().map_or((left < u64::MAX / 2).then_some(left), |free| Some(free.min(left)));
        MemoryRoom { free_bytes, scratch_bytes: wide.as_ref().map_or(0, CpuBuffer::bytes) }
    }

    fn zero(&self, to: ViewMut<'_, CpuBuffer<E>>, len: usize) -> Result<()> {
        let to = Disjoint::new(slice_mut(to, len)?);
        // SAFETY: pieces are disjoint.
        for_rows(&mut self.pool(), len, 1, |range| unsafe { to.range(range) }.fill(E::ZERO));
        Ok(())
    }

    fn embedding(&self, table: &CpuWeight, ids: &Vec<u32>, out: ViewMut<'_, CpuBuffer<E>>) -> Result<()> {
        let width = table.columns();
        if let Some(id) = ids.iter().find(|id| **id as usize >= table.rows()) {
            return Err(EngineError::internal(format!("id {id} is outside the table of {} rows", table.rows())));
        }
        let out = Disjoint::new(slice_mut(out, ids.len() * width)?);
        for_rows(&mut self.pool(), ids.len(), width, |range| {
            for row in range {
                // SAFETY: rows of this piece.
                table.dequantize_rows(ids[row] as usize, unsafe { out.range(row * width..(row + 1) * width) });
            }
        });
        Ok(())
    }

    fn gather_rows(
        &self,
        x: View<'_, CpuBuffer<E>>,
        rows: &Vec<u32>,
        width: usize,
        out: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let out = slice_mut(out, rows.len() * width)?;
        for (out, row) in out.chunks_exact_mut(width).zip(rows) {
            let x = View { offset: x.offset + *row as usize * width, ..x };
            out.copy_from_slice(slice(x, width)?);
        }
        Ok(())
    }

    fn scatter_rows(
        &self,
        x: View<'_, CpuBuffer<E>>,
        rows: &Vec<u32>,
        width: usize,
        out: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let ViewMut { buffer, offset } = out;
        for (x, row) in slice(x, rows.len() * width)?.chunks_exact(width).zip(rows) {
            slice_mut(ViewMut::at(buffer, offset + *row as usize * width), width)?.copy_from_slice(x);
        }
        Ok(())
    }

    fn rms_norm(
        &self,
        rows: usize,
        width: usize,
        x: View<'_, CpuBuffer<E>>,
        weight: &CpuBuffer<E>,
        epsilon: f64,
        out: ViewMut<'_, CpuBuffer<E>>,
        reciprocal_rms: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let (x, weight, epsilon) = (slice(x, rows * width)?, slice(weight.into(), width)?, E::from_f64(epsilon));
        let out = Disjoint::new(slice_mut(out, rows * width)?);
        let factors = Disjoint::new(slice_mut(reciprocal_rms, rows)?);
        for_rows(&mut self.pool(), rows, width, |range| {
            for row in range {
                let place = row * width..(row + 1) * width;
                // SAFETY: rows of this piece.
                let (out, factor) = unsafe { (out.range(place.clone()), &mut factors.range(row..row + 1)[0]) };
                *factor = rows::rms_norm(&x[place], weight, epsilon, out);
            }
        });
        Ok(())
    }

    fn rms_norm_backward(
        &self,
        rows: usize,
        width: usize,
        x: View<'_, CpuBuffer<E>>,
        weight: &CpuBuffer<E>,
        reciprocal_rms: View<'_, CpuBuffer<E>>,
        output_grad: View<'_, CpuBuffer<E>>,
        input_grad: ViewMut<'_, CpuBuffer<E>>,
        normed: Option<ViewMut<'_, CpuBuffer<E>>>,
    ) -> Result<()> {
        let (x, weight) = (slice(x, rows * width)?, slice(weight.into(), width)?);
        let (factors, output_grad) = (slice(reciprocal_rms, rows)?, slice(output_grad, rows * width)?);
        let input_grad = Disjoint::new(slice_mut(input_grad, rows * width)?);
        let normed_width = if normed.is_some() { width } else { 0 };
        let normed = Disjoint::new(match normed {
            Some(normed) => slice_mut(normed, rows * width)?,
            None => &mut [],
        });
        for_rows(&mut self.pool(), rows, width, |range| {
            for row in range {
                let place = row * width..(row + 1) * width;
                let normed_place = row * normed_width..(row + 1) * normed_width;
                // SAFETY: rows of this piece.
                let (input_grad, normed) = unsafe { (input_grad.range(place.clone()), normed.range(normed_place)) };
                let (x, output_grad) = (&x[place.clone()], &output_grad[place]);
                rows::rms_norm_backward(x, weight, factors[row], output_grad, input_grad, normed);
            }
        });
        Ok(())
    }

    fn rope(
        &self,
        x: ViewMut<'_, CpuBuffer<E>>,
        shape: RopeShape,
        angles: &CpuBuffer<E>,
        positions: &Vec<u32>,
        inverse: bool,
    ) -> Result<()> {
        let RopeShape { heads, head_dim, rotated, pairs } = shape;
        let width = heads * head_dim;
        let last = positions.iter().max().map_or(0, |last| *last as usize + 1);
        let angles = slice(angles.into(), last * rotated)?;
        let x = Disjoint::new(slice_mut(x, positions.len() * width)?);
        let sign = if inverse { -E::ONE } else { E::ONE };
        for_rows(&mut self.pool(), positions.len(), width, |range| {
            for row in range {
                let at = positions[row] as usize * rotated;
                // SAFETY: rows of this piece.
                let x = unsafe { x.range(row * width..(row + 1) * width) };
                let angles = &angles[at..at + rotated];
                match pairs {
                    RopePairs::Halves => rows::rotate(x, head_dim, angles, sign),
                    RopePairs::Interleaved => rows::rotate_interleaved(x, head_dim, angles, sign),
                }
            }
        });
        Ok(())
    }

    fn swiglu(
        &self,
        len: usize,
        gate: View<'_, CpuBuffer<E>>,
        up: View<'_, CpuBuffer<E>>,
        out: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let (gate, up, out) = (slice(gate, len)?, slice(up, len)?, Disjoint::new(slice_mut(out, len)?));
        for_rows(&mut self.pool(), len, 1, |range| {
            // SAFETY: pieces are disjoint.
            rows::swiglu(&gate[range.clone()], &up[range.clone()], unsafe { out.range(range) });
        });
        Ok(())
    }

    fn swiglu_backward(
        &self,
        len: usize,
        output_grad: View<'_, CpuBuffer<E>>,
        gate: ViewMut<'_, CpuBuffer<E>>,
        up: ViewMut<'_, CpuBuffer<E>>,
        activated: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let output_grad = slice(output_grad, len)?;
        let (gate, up) = (Disjoint::new(slice_mut(gate, len)?), Disjoint::new(slice_mut(up, len)?));
        let activated = Disjoint::new(slice_mut(activated, len)?);
        for_rows(&mut self.pool(), len, 1, |range| {
            // SAFETY: pieces are disjoint.
            let (gate, up, activated) =
                unsafe { (gate.range(range.clone()), up.range(range.clone()), activated.range(range.clone())) };
            rows::swiglu_backward(&output_grad[range], gate, up, activated);
        });
        Ok(())
    }

    fn attention(
        &self,
        shape: AttentionShape,
        borders: &Vec<u32>,
        inputs: AttentionInputs<'_, CpuBuffer<E>>,
        output: ViewMut<'_, CpuBuffer<E>>,
        log_sum_exp: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let [rows, wide, narrow] = shape.sizes(borders)?;
        let arrays = [slice(inputs.query, wide)?, slice(inputs.key, narrow)?, slice(inputs.value, narrow)?];
        let (output, log_sum_exp) = (slice_mut(output, wide)?, slice_mut(log_sum_exp, rows * shape.heads)?);
        let workers = Workers { pool: &mut self.pool(), scratch: &self.scratch, packed: &mut self.packed() };
        attention::forward(workers, shape, borders, arrays, output, log_sum_exp);
        Ok(())
    }

    fn cached_attention(
        &self,
        shape: AttentionShape,
        rows: usize,
        positions: usize,
        inputs: AttentionInputs<'_, CpuBuffer<E>>,
        output: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let [wide, narrow] = shape.cached_sizes(rows, positions)?;
        let arrays = [slice(inputs.query, wide)?, slice(inputs.key, narrow)?, slice(inputs.value, narrow)?];
        cached_attention::forward(&mut self.pool(), &self.scratch, shape, rows, arrays, slice_mut(output, wide)?);
        Ok(())
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        borders: &Vec<u32>,
        inputs: AttentionInputs<'_, CpuBuffer<E>>,
        saved: AttentionSaved<'_, CpuBuffer<E>>,
        grads: AttentionGrads<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let [rows, wide, narrow] = shape.sizes(borders)?;
        let (query, key, value) =
            (slice(inputs.query, wide)?, slice(inputs.key, narrow)?, slice(inputs.value, narrow)?);
        let (output, output_grad) = (slice(saved.output, wide)?, slice(saved.output_grad, wide)?);
        let log_sum_exp = slice(saved.log_sum_exp, rows * shape.heads)?;
        let query_grad = slice_mut(grads.query, wide)?;
        let (key_grad, value_grad) = (slice_mut(grads.key, narrow)?, slice_mut(grads.value, narrow)?);
        let per_head = if shape.heads == shape.key_value_heads { 0 } else { 2 * wide };
        self.with_wide(per_head, |per_head| {
            let workers = Workers { pool: &mut self.pool(), scratch: &self.scratch, packed: &mut self.packed() };
            let arrays = Backward {
                query,
                key,
                value,
                output,
                log_sum_exp,
                output_grad,
                query_grad,
                key_grad,
                value_grad,
                per_head,
            };
            attention::backward(workers, shape, borders, arrays);
        })
    }

    fn dropout(
        &self,
        len: usize,
        mask: DropoutMask,
        x: View<'_, CpuBuffer<E>>,
        accumulate: bool,
        out: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        mask.check(len)?;
        let (x, out) = (slice(x, len)?, Disjoint::new(slice_mut(out, len)?));
        // Runs of one draw, so that pieces begin where runs do.
        for_rows(&mut self.pool(), len.div_ceil(dropout::NUMBERS), dropout::NUMBERS, |runs| {
            let range = runs.start * dropout::NUMBERS..(runs.end * dropout::NUMBERS).min(len);
            // SAFETY: pieces are disjoint.
            dropout::dropout(&mask, range.start, &x[range.clone()], accumulate, unsafe { out.range(range) });
        });
        Ok(())
    }

    fn gemm(
        &self,
        m: usize,
        n: usize,
        k: usize,
        alpha: f64,
        a: Matrix<'_, CpuBuffer<E>>,
        b: Matrix<'_, CpuBuffer<E>>,
        accumulate: bool,
        c: MatrixMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let terms = [Term { left: left(&a, m, k)?, right: right(&b, k, n)? }];
        let MatrixMut { view, row_stride, column_stride } = c;
        let c = slice_mut(view, extent(m, n, row_stride, column_stride))?.as_mut_ptr();
        self.run(&Product {
            m,
            n,
            alpha: E::from_f64(alpha),
            terms: &terms,
            c,
            row_stride,
            column_stride,
            start: if accumulate { c } else { std::ptr::null() },
            start_row_stride: row_stride,
            start_column_stride: column_stride,
        });
        Ok(())
    }

    fn linear_forward(
        &self,
        rows: usize,
        x: View<'_, CpuBuffer<E>>,
        weight: &CpuWeight,
        bias: Option<&CpuBuffer<E>>,
        low_rank: Option<LowRankTerm<'_, CpuBuffer<E>>>,
        residual: Option<View<'_, CpuBuffer<E>>>,
        out: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let (n, k) = (weight.rows(), weight.columns());
        let out = slice_mut(out, rows * n)?;
        let frozen = Term { left: left(&x.rows(k), rows, k)?, right: Right::Transposed(weight) };
        let terms = match &low_rank {
            None => [frozen; 2],
            Some(term) => [frozen, low_rank_term(term, rows, n)?],
        };
        let (start, start_row_stride) = match (residual, bias) {
            (Some(residual), _) => (slice(residual, rows * n)?.as_ptr(), n),
            (None, Some(bias)) => (slice(bias.into(), n)?.as_ptr(), 0),
            (None, None) => (std::ptr::null(), 0),
        };
        self.run(&Product {
            m: rows,
            n,
            alpha: E::ONE,
            terms: &terms[..1 + usize::from(low_rank.is_some())],
            c: out.as_mut_ptr(),
            row_stride: n,
            column_stride: 1,
            start,
            start_row_stride,
            start_column_stride: 1,
        });
        if let (Some(_), Some(bias)) = (residual, bias) {
            let (bias, out) = (slice(bias.into(), n)?, Disjoint::new(out));
            for_rows(&mut self.pool(), rows, n, |range| {
                for row in range {
                    // SAFETY: rows of this piece.
                    rows::add(unsafe { out.range(row * n..(row + 1) * n) }, bias);
                }
            });
        }
        Ok(())
    }

    fn linear_grad_input(
        &self,
        rows: usize,
        layers: &[LinearGradTerm<'_, Self>],
        low_rank: Option<LowRankTerm<'_, CpuBuffer<E>>>,
        input_grad: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        let n = layers.first().map(|layer| layer.weight.columns());
        let n = n.ok_or_else(|| EngineError::internal("a gradient of no layer was asked for"))?;
        let c = slice_mut(input_grad, rows * n)?.as_mut_ptr();
        let mut terms: Vec<Term<'_, E>> = Vec::with_capacity(MAX_TERMS);
        let mut start = std::ptr::null();
        let mut flush = |terms: &mut Vec<Term<'_, E>>| {
            self.run(&Product {
                m: rows,
                n,
                alpha: E::ONE,
                terms,
                c,
                row_stride: n,
                column_stride: 1,
                start,
                start_row_stride: n,
                start_column_stride: 1,
            });
            terms.clear();
            start = c;
        };
        terms.extend(low_rank.as_ref().map(|term| low_rank_term(term, rows, n)).transpose()?);
        for LinearGradTerm { output_grad, weight } in layers {
            let k = weight.rows();
            if weight.columns() != n {
                return Err(EngineError::internal(format!(
                    "layers with {n} and {} inputs share one",
                    weight.columns()
                )));
            }
            let segment = left(&output_grad.rows(k), rows, k)?;
            if let Some(elements) = weight.elements::<E>() {
                let right = Right::Strided { start: elements.as_ptr(), row_stride: n, column_stride: 1 };
                terms.push(Term { left: segment, right });
                continue;
            }
            let at_once = (DEQUANTIZED_NUMBERS / n).max(1);
            for first in (0..k).step_by(at_once) {
                let count = (k - first).min(at_once);
                self.with_wide(count * n, |plain| {
                    let out = Disjoint::new(plain);
                    for_rows(&mut self.pool(), count, n, |range| {
                        // SAFETY: rows of this piece.
                        weight
                            .dequantize_rows(first + range.start, unsafe { out.range(range.start * n..range.end * n) });
                    });
                    let right = Right::Strided { start: out.start().cast_const(), row_stride: n, column_stride: 1 };
                    let part = Segment { a: segment.a.wrapping_add(first), k: count, ..segment };
                    terms.push(Term { left: part, right });
                    flush(&mut terms);
                })?;
            }
        }
        if !terms.is_empty() {
            flush(&mut terms);
        }
        Ok(())
    }

    fn cross_entropy(
        &self,
        vocabulary: usize,
        targets: &Vec<u32>,
        label_smoothing: f64,
        grad_scale: Option<f64>,
        logits: ViewMut<'_, CpuBuffer<E>>,
        losses: ViewMut<'_, CpuBuffer<E>>,
    ) -> Result<()> {
        if let Some(target) = targets.iter().find(|target| **target as usize >= vocabulary) {
            return Err(EngineError::internal(format!("target {target} is outside the vocabulary of {vocabulary}")));
        }
        let (logits, losses) = (slice_mut(logits, targets.len() * vocabulary)?, slice_mut(losses, targets.len())?);
        let grad_scale = grad_scale.map(E::from_f64);
        loss::cross_entropy(&mut self.pool(), vocabulary, targets, label_smoothing, grad_scale, logits, losses);
        Ok(())
    }

    fn clip_norm(&self, values: &mut CpuBuffer<E>, scale: f64, max_norm: f64) -> Result<f64> {
        let values = values.as_mut_slice();
        let len = values.len();
        let piece = |index: usize| index * FLAT_PIECE..((index + 1) * FLAT_PIECE).min(len);
        let multiply = |pieces: &Disjoint<'_, E>, factor: f64| {
            let factor = E::from_f64(factor);
            self.pool().run(len.div_ceil(FLAT_PIECE), &|index| {
                // SAFETY: pieces are disjoint.
                rows::scale(unsafe { pieces.range(piece(index)) }, factor);
            });
        };
        let mut sums = vec![0f64; len.div_ceil(FLAT_PIECE)];
        let (places, pieces) = (Disjoint::new(&mut sums), Disjoint::new(values));
        if scale != 1.0 {
            multiply(&pieces, scale);
        }
        self.pool().run(len.div_ceil(FLAT_PIECE), &|index| {
            // SAFETY: pieces are disjoint.
            unsafe { places.range(index..index + 1)[0] = rows::sum_of_squares(pieces.range(piece(index))) };
        });
        let norm = sums.iter().sum::<f64>().sqrt();
        let factor = max_norm / (norm + 1e-6);
        if max_norm > 0.0 && factor < 1.0 {
            multiply(&pieces, factor);
        }
        Ok(norm)
    }

    fn adamw(&self, settings: AdamW, state: AdamWState<'_, CpuBuffer<E>>) -> Result<()> {
        let exact = settings.factors();
        let factors = rows::AdamWFactors {
            decay: E::from_f64(exact.decay),
            first_weight: E::from_f64(exact.first_weight),
            keep_second: E::from_f64(exact.keep_second),
            second_weight: E::from_f64(exact.second_weight),
            step_size: E::from_f64(exact.step_size),
            root_correction: E::from_f64(exact.root_correction),
            epsilon: E::from_f64(exact.epsilon),
        };
        let AdamWState { parameters, gradients, range, first_moments, second_moments, moments_at } = state;
        let len = range.len();
        let gradients = slice(View::at(gradients, range.start), len)?;
        let parameters = Disjoint::new(slice_mut(ViewMut::at(parameters, range.start), len)?);
        let first = Disjoint::new(slice_mut(ViewMut::at(first_moments, moments_at), len)?);
        let second = Disjoint::new(slice_mut(ViewMut::at(second_moments, moments_at), len)?);
        for_rows(&mut self.pool(), len, 1, |range| {
            // SAFETY: pieces are disjoint.
            let (parameters, first, second) =
                unsafe { (parameters.range(range.clone()), first.range(range.clone()), second.range(range.clone())) };
            rows::adamw(&factors, parameters, &gradients[range], first, second);
        });
        Ok(())
    }

    fn adamw_8bit(&self, settings: AdamW, state: AdamW8bitState<'_, CpuBuffer<E>, CpuCodes>) -> Result<()> {
        let AdamW8bitState { parameters, gradients, range, codes_at, scales_at, .. } = state;
        let (len, blocks) = (range.len(), range.len().div_ceil(MOMENT_BLOCK));
        let gradients = slice(View::at(gradients, range.start), len)?;
        let parameters = slice_mut(ViewMut::at(parameters, range.start), len)?;
        let moments = |codes, scales| -> Result<Moments<'_, E>> {
            let scales = slice_mut(ViewMut::at(scales, scales_at), blocks)?;
            Ok(Moments { codes: codes_mut(codes, codes_at, len)?, scales })
        };
        let first = moments(state.first_codes, state.first_scales)?;
        let second = moments(state.second_codes, state.second_scales)?;
        adamw_8bit::update(&mut self.pool(), &settings.factors(), parameters, gradients, [first, second]);
        Ok(())
    }

    fn add_noise(&self, len: usize, noise: UniformNoise, to: ViewMut<'_, CpuBuffer<E>>) -> Result<()> {
        noise.check(len)?;
        let to = Disjoint::new(slice_mut(to, len)?);
        for_rows(&mut self.pool(), len.div_ceil(dropout::NUMBERS), dropout::NUMBERS, |runs| {
            let range = runs.start * dropout::NUMBERS..(runs.end * dropout::NUMBERS).min(len);
            // SAFETY: pieces are disjoint.
            noise::add_noise(&noise, range.start, unsafe { to.range(range) });
        });
        Ok(())
    }
}
