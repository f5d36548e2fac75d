//! The dispatch of every operation: places and types are checked, then a kernel is started.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use luthier_kernels::{AdamW8bitFactors, AdamW8bitMoments, AdamWFactors, NumberType};

use super::device::{CudaOps, LOGITS_AT_ONCE};
use super::linear::Start;
use super::memory::{CudaBuffer, CudaCodes, CudaIndices, one_kind, place, place_mut, single};
use super::pinned::CudaParked;
use super::prices::CudaPrices;
use super::weight::CudaWeight;
use crate::error::{EngineError, Result};
use crate::ops::{
    AdamW, AdamW8bitState, AdamWState, AttentionGrads, AttentionInputs, AttentionSaved, AttentionShape, DropoutMask,
    EmbeddingPlace, GatedBackward, GatedForward, LinearGradTerm, LowRankGradients, LowRankTerm, MOMENT_BLOCK, Matrix,
    MatrixMut, MemoryPrices, MemoryRoom, MemoryUse, Ops, Rope, RopePairs, RopeShape, UniformNoise, View, ViewMut,
};
use crate::quant::dequantize;
use crate::tensor::HostTensor;

impl Ops for CudaOps {
    type Elem = f32;
    type Buffer = CudaBuffer;
    type Indices = CudaIndices;
    type Weight = CudaWeight;
    type Parked = CudaParked;
    type Codes = CudaCodes;
    const LOGITS_AT_ONCE: usize = LOGITS_AT_ONCE;

    fn allocate(&self, len: usize) -> Result<CudaBuffer> {
        CudaBuffer::new(&self.memory, len, NumberType::F32)
    }

    fn allocate_activations(&self, len: usize) -> Result<CudaBuffer> {
        CudaBuffer::new(&self.memory, len, self.compute)
    }

    fn allocate_indices(&self, capacity: usize) -> Result<CudaIndices> {
        CudaIndices::new(&self.memory, capacity)
    }

    fn allocate_codes(&self, len: usize) -> Result<CudaCodes> {
        CudaCodes::new(&self.memory, len)
    }

    fn read_codes(&self, from: &CudaCodes, codes: &mut [u8]) -> Result<()> {
        let place = from.place(0, codes.len())?;
        // SAFETY: so many codes from there on.
        unsafe { self.stream().download(place, codes) }.map_err(EngineError::from)
    }

    fn write_codes(&self, codes: &[u8], to: &mut CudaCodes) -> Result<()> {
        let place = to.place(0, codes.len())?;
        // SAFETY: so much room from there on.
        unsafe { self.stream().upload(codes, place) }.map_err(EngineError::from)
    }

    fn environment(&self) -> BTreeMap<String, String> {
        self.libraries()
    }

    fn upload_weight(&self, tensor: HostTensor) -> Result<CudaWeight> {
        CudaWeight::new(&self.memory, &tensor)
    }

    fn upload_embedding(&self, tensor: HostTensor, place: EmbeddingPlace) -> Result<CudaWeight> {
        CudaWeight::embedding(&self.memory, &tensor, place)
    }

    fn embedding_place(&self, table: &CudaWeight) -> EmbeddingPlace {
        table.place()
    }

    fn weight_shape(&self, weight: &CudaWeight) -> (usize, usize) {
        (weight.rows, weight.columns)
    }

    fn weight_bytes(&self, weight: &CudaWeight) -> u64 {
        weight.bytes()
    }

    fn upload_dequantized(&self, tensor: &HostTensor) -> Result<CudaBuffer> {
        let values = dequantize(tensor);
        let mut buffer = self.allocate(values.len())?;
        self.write(&values, ViewMut::from(&mut buffer))?;
        Ok(buffer)
    }

    fn write(&self, values: &[f32], to: ViewMut<'_, CudaBuffer>) -> Result<()> {
        let place = place_mut(&to, values.len())?;
        // SAFETY: the place was checked.
        unsafe { self.memory.upload_as(to.buffer.kind, values, place) }
    }

    fn write_indices(&self, values: &[u32], to: &mut CudaIndices) -> Result<()> {
        if size_of_val(values) > to.allocation.bytes() {
            let room = to.allocation.bytes() / size_of::<u32>();
            return Err(EngineError::internal(format!("{} integers for room of {room}", values.len())));
        }
        to.values.clear();
        to.values.extend_from_slice(values);
        // SAFETY: the room was checked.
        unsafe { self.stream().upload(values, to.pointer()) }.map_err(EngineError::from)
    }

    fn read(&self, from: View<'_, CudaBuffer>, values: &mut [f32]) -> Result<()> {
        let place = place(from, values.len())?;
        // SAFETY: the place was checked.
        unsafe {
            match from.buffer.kind {
                NumberType::F32 => self.stream().download(place, values)?,
                NumberType::F16 => {
                    let mut short = vec![half::f16::ZERO; values.len()];
                    self.stream().download(place, &mut short)?;
                    values.iter_mut().zip(&short).for_each(|(value, short)| *value = short.to_f32());
                }
                NumberType::BF16 => {
                    let mut short = vec![half::bf16::ZERO; values.len()];
                    self.stream().download(place, &mut short)?;
                    values.iter_mut().zip(&short).for_each(|(value, short)| *value = short.to_f32());
                }
            }
        }
        Ok(())
    }

    fn allocate_parked(&self, len: usize) -> Result<CudaParked> {
        CudaParked::new(&self.memory, len, self.compute)
    }

    fn park(&self, len: usize, from: &CudaBuffer, to: &mut CudaParked) -> Result<()> {
        to.park(len, from)
    }

    fn fetch(&self, len: usize, from: &CudaParked, to: &mut CudaBuffer) -> Result<()> {
        from.fetch(len, to)
    }

    fn memory(&self) -> MemoryUse {
        self.memory.in_use()
    }

    fn prices(&self) -> Box<dyn MemoryPrices + '_> {
        Box::new(CudaPrices { compute: self.compute, own_bytes: self.own_bytes(), cudnn: self.cudnn.as_ref().ok() })
    }

    fn room(&self) -> MemoryRoom {
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch_bytes = self.own_bytes() + scratch.as_ref().map_or(0, |found| found.bytes() as u64);
        MemoryRoom { free_bytes: self.stream().memory().ok().map(|(free, _)| free as u64), scratch_bytes }
    }

    fn zero(&self, to: ViewMut<'_, CudaBuffer>, len: usize) -> Result<()> {
        // SAFETY: the place is checked.
        unsafe { self.stream().clear(place_mut(&to, len)?, len * to.buffer.kind.bytes()) }.map_err(EngineError::from)
    }

    fn embedding(&self, table: &CudaWeight, ids: &CudaIndices, out: ViewMut<'_, CudaBuffer>) -> Result<()> {
        below(&ids.values, table.rows, "id")?;
        let (rows, width) = (ids.values.len(), table.columns);
        if rows == 0 {
            return Ok(());
        }
        let to = place_mut(&out, rows * width)?;
        table.gather(&self.memory, ids, out.buffer.kind, to)
    }

    fn gather_rows(
        &self,
        x: View<'_, CudaBuffer>,
        rows: &CudaIndices,
        width: usize,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let Some(last) = rows.values.iter().max() else { return Ok(()) };
        let from = place(x, (*last as usize + 1) * width)?;
        let (to, kinds) = (place_mut(&out, rows.values.len() * width)?, [x.buffer.kind, out.buffer.kind]);
        // SAFETY: places were checked.
        unsafe { self.stream().gather_rows(kinds, [rows.values.len(), width], from, rows.pointer(), to) }
            .map_err(EngineError::from)
    }

    fn scatter_rows(
        &self,
        x: View<'_, CudaBuffer>,
        rows: &CudaIndices,
        width: usize,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let Some(last) = rows.values.iter().max() else { return Ok(()) };
        let (kind, from) = (one_kind([x.buffer, out.buffer])?, place(x, rows.values.len() * width)?);
        let to = place_mut(&out, (*last as usize + 1) * width)?;
        // SAFETY: places were checked.
        unsafe { self.stream().scatter_rows(kind, [rows.values.len(), width], from, rows.pointer(), to) }
            .map_err(EngineError::from)
    }

    fn rms_norm(
        &self,
        rows: usize,
        width: usize,
        x: View<'_, CudaBuffer>,
        weight: &CudaBuffer,
        epsilon: f64,
        out: ViewMut<'_, CudaBuffer>,
        reciprocal_rms: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let kind = one_kind([x.buffer, out.buffer])?;
        single(weight)?;
        single(reciprocal_rms.buffer)?;
        let (x, weight) = (place(x, rows * width)?, weight.place(0, width)?);
        let (out, factors) = (place_mut(&out, rows * width)?, place_mut(&reciprocal_rms, rows)?);
        // SAFETY: places and types were checked.
        unsafe { self.stream().rms_norm(kind, rows, width, x, weight, epsilon as f32, out, factors) }
            .map_err(EngineError::from)
    }

    fn rms_norm_backward(
        &self,
        rows: usize,
        width: usize,
        x: View<'_, CudaBuffer>,
        weight: &CudaBuffer,
        reciprocal_rms: View<'_, CudaBuffer>,
        output_grad: View<'_, CudaBuffer>,
        input_grad: ViewMut<'_, CudaBuffer>,
        normed: Option<ViewMut<'_, CudaBuffer>>,
    ) -> Result<()> {
        let kind = one_kind([x.buffer, output_grad.buffer, input_grad.buffer])?;
        if let Some(normed) = &normed {
            one_kind([x.buffer, normed.buffer])?;
        }
        let normed = normed.map(|normed| place_mut(&normed, rows * width)).transpose()?;
        single(weight)?;
        single(reciprocal_rms.buffer)?;
        let (x, weight, factors) = (place(x, rows * width)?, weight.place(0, width)?, place(reciprocal_rms, rows)?);
        let (output_grad, input_grad) = (place(output_grad, rows * width)?, place_mut(&input_grad, rows * width)?);
        // SAFETY: places and types were checked.
        unsafe {
            self.stream().rms_norm_backward(kind, rows, width, x, weight, factors, output_grad, input_grad, normed)
        }
        .map_err(EngineError::from)
    }

    fn rope(
        &self,
        x: ViewMut<'_, CudaBuffer>,
        shape: RopeShape,
        angles: &CudaBuffer,
        positions: &CudaIndices,
        inverse: bool,
    ) -> Result<()> {
        let RopeShape { heads, head_dim, rotated, pairs } = shape;
        let (kind, rows) = (x.buffer.kind, positions.values.len());
        let angles = self.angles(angles, rotated, positions)?;
        let x = place_mut(&x, rows * heads * head_dim)?;
        // SAFETY: places and positions were checked.
        unsafe {
            let (sizes, interleaved) = ([heads, head_dim, rotated], pairs == RopePairs::Interleaved);
            self.stream().rope(kind, rows, sizes, interleaved, x, angles, positions.pointer(), inverse)
        }
        .map_err(EngineError::from)
    }

    fn swiglu(
        &self,
        len: usize,
        gate: View<'_, CudaBuffer>,
        up: View<'_, CudaBuffer>,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let kind = one_kind([gate.buffer, up.buffer, out.buffer])?;
        let (gate, up, out) = (place(gate, len)?, place(up, len)?, place_mut(&out, len)?);
        // SAFETY: places were checked.
        unsafe { self.stream().swiglu(kind, len, gate, up, out) }.map_err(EngineError::from)
    }

    fn swiglu_backward(
        &self,
        len: usize,
        output_grad: View<'_, CudaBuffer>,
        gate: ViewMut<'_, CudaBuffer>,
        up: ViewMut<'_, CudaBuffer>,
        activated: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let kind = one_kind([output_grad.buffer, gate.buffer, up.buffer, activated.buffer])?;
        let (output_grad, gate, up) = (place(output_grad, len)?, place_mut(&gate, len)?, place_mut(&up, len)?);
        let activated = place_mut(&activated, len)?;
        // SAFETY: places were checked.
        unsafe { self.stream().swiglu_backward(kind, len, output_grad, gate, up, activated) }.map_err(EngineError::from)
    }

    fn attention(
        &self,
        shape: AttentionShape,
        borders: &CudaIndices,
        inputs: AttentionInputs<'_, CudaBuffer>,
        output: ViewMut<'_, CudaBuffer>,
        log_sum_exp: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.packed_attention(shape, borders, inputs, output, log_sum_exp)
    }

    fn cached_attention(
        &self,
        shape: AttentionShape,
        rows: usize,
        positions: usize,
        inputs: AttentionInputs<'_, CudaBuffer>,
        output: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.attention_over_cache(shape, rows, positions, inputs, output)
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        borders: &CudaIndices,
        inputs: AttentionInputs<'_, CudaBuffer>,
        saved: AttentionSaved<'_, CudaBuffer>,
        grads: AttentionGrads<'_, CudaBuffer>,
    ) -> Result<()> {
        self.packed_attention_backward(shape, borders, inputs, saved, grads)
    }

    fn dropout(
        &self,
        len: usize,
        mask: DropoutMask,
        x: View<'_, CudaBuffer>,
        accumulate: bool,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        mask.check(len)?;
        let kind = one_kind([x.buffer, out.buffer])?;
        let (x, out) = (place(x, len)?, place_mut(&out, len)?);
        let DropoutMask { key, stream, .. } = mask;
        let (threshold, scale) = (mask.threshold(), mask.scale() as f32);
        let mask = luthier_kernels::DropoutMask { key, stream, threshold, scale };
        // SAFETY: places and types were checked.
        unsafe { self.stream().dropout(kind, mask, len, x, accumulate, out) }.map_err(EngineError::from)
    }

    fn gemm(
        &self,
        m: usize,
        n: usize,
        k: usize,
        alpha: f64,
        a: Matrix<'_, CudaBuffer>,
        b: Matrix<'_, CudaBuffer>,
        accumulate: bool,
        c: MatrixMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let start = if accumulate { Start::Itself } else { Start::Zero };
        self.product([m, n, k], alpha, &a, &b, start, c)
    }

    fn linear_forward(
        &self,
        rows: usize,
        x: View<'_, CudaBuffer>,
        weight: &CudaWeight,
        bias: Option<&CudaBuffer>,
        low_rank: Option<LowRankTerm<'_, CudaBuffer>>,
        residual: Option<View<'_, CudaBuffer>>,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.forward(rows, x, weight, bias, low_rank, residual, out)
    }

    fn linear_rope(
        &self,
        rows: usize,
        x: View<'_, CudaBuffer>,
        weight: &CudaWeight,
        bias: Option<&CudaBuffer>,
        low_rank: Option<LowRankTerm<'_, CudaBuffer>>,
        rope: Rope<'_, Self>,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.forward_rotated(rows, x, weight, bias, low_rank, rope, out)
    }

    fn linear_grad_input(
        &self,
        rows: usize,
        terms: &[LinearGradTerm<'_, Self>],
        low_rank: Option<LowRankTerm<'_, CudaBuffer>>,
        input_grad: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        self.grad_input(rows, terms, low_rank, input_grad)
    }

    fn gated_forward(&self, of: GatedForward<'_, Self>) -> Result<()> {
        self.forward_gated(of)
    }

    fn gated_backward(&self, of: GatedBackward<'_, Self>) -> Result<()> {
        self.backward_gated(of)
    }

    fn low_rank_gradients(&self, mut of: LowRankGradients<'_, CudaBuffer>) -> Result<()> {
        if self.gradients_in_one_pass(&mut of)? { Ok(()) } else { of.into_products(self) }
    }

    fn cross_entropy(
        &self,
        vocabulary: usize,
        targets: &CudaIndices,
        label_smoothing: f64,
        grad_scale: Option<f64>,
        logits: ViewMut<'_, CudaBuffer>,
        losses: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        below(&targets.values, vocabulary, "target")?;
        single(losses.buffer)?;
        let rows = targets.values.len();
        if rows == 0 {
            return Ok(());
        }
        let (kind, scale) = (logits.buffer.kind, grad_scale.map(|scale| scale as f32));
        let (logits, losses) = (place_mut(&logits, rows * vocabulary)?, place_mut(&losses, rows)?);
        // SAFETY: places, types and targets were checked.
        unsafe {
            let (targets, smoothing) = (targets.pointer(), label_smoothing as f32);
            self.stream().cross_entropy(kind, rows, vocabulary, logits, targets, smoothing, scale, losses)
        }
        .map_err(EngineError::from)
    }

    fn clip_norm(&self, values: &mut CudaBuffer, scale: f64, max_norm: f64) -> Result<f64> {
        single(values)?;
        let len = values.allocation.bytes() / size_of::<f32>();
        let pointer = values.place_mut(0, len)?;
        let mut norm = [0f64];
        // SAFETY: the whole buffer; the scratch has the size that the kernels ask for.
        unsafe {
            let place = self.stream().clip_norm(pointer, len, [scale, max_norm], self.norm.pointer)?;
            self.stream().download(place, &mut norm)?;
        }
        Ok(norm[0])
    }

    fn adamw(&self, settings: AdamW, state: AdamWState<'_, CudaBuffer>) -> Result<()> {
        let exact = settings.factors();
        let factors = AdamWFactors {
            decay: exact.decay as f32,
            first_weight: exact.first_weight as f32,
            keep_second: exact.keep_second as f32,
            second_weight: exact.second_weight as f32,
            step_size: exact.step_size as f32,
            root_correction: exact.root_correction as f32,
            epsilon: exact.epsilon as f32,
        };
        let AdamWState { parameters, gradients, range, first_moments, second_moments, moments_at } = state;
        for buffer in [&*parameters, gradients, &*first_moments, &*second_moments] {
            single(buffer)?;
        }
        let (first, len) = (range.start, range.len());
        let moments = [first_moments.place_mut(moments_at, len)?, second_moments.place_mut(moments_at, len)?];
        let (parameters, gradients) = (parameters.place_mut(first, len)?, gradients.place(first, len)?);
        // SAFETY: places and types were checked.
        unsafe { self.stream().adamw(factors, len, parameters, gradients, moments) }.map_err(EngineError::from)
    }

    fn adamw_8bit(&self, settings: AdamW, state: AdamW8bitState<'_, CudaBuffer, CudaCodes>) -> Result<()> {
        let exact = settings.factors();
        let factors = AdamW8bitFactors {
            decay: exact.decay as f32,
            keep_first: exact.keep_first as f32,
            first_weight: exact.first_weight as f32,
            keep_second: exact.keep_second as f32,
            second_weight: exact.second_weight as f32,
            step_size: exact.step_size as f32,
            root_correction: exact.root_correction as f32,
            epsilon: exact.epsilon as f32,
        };
        let AdamW8bitState { parameters, gradients, range, first_scales, second_scales, codes_at, scales_at, .. } =
            state;
        for buffer in [&*parameters, gradients, &*first_scales, &*second_scales] {
            single(buffer)?;
        }
        let (first, len, blocks) = (range.start, range.len(), range.len().div_ceil(MOMENT_BLOCK));
        let moments = AdamW8bitMoments {
            first_codes: state.first_codes.place(codes_at, len)?,
            second_codes: state.second_codes.place(codes_at, len)?,
            first_scales: first_scales.place_mut(scales_at, blocks)?,
            second_scales: second_scales.place_mut(scales_at, blocks)?,
        };
        let (parameters, gradients) = (parameters.place_mut(first, len)?, gradients.place(first, len)?);
        // SAFETY: places and types were checked.
        unsafe { self.stream().adamw_8bit(factors, len, parameters, gradients, moments) }.map_err(EngineError::from)
    }

    fn add_noise(&self, len: usize, noise: UniformNoise, to: ViewMut<'_, CudaBuffer>) -> Result<()> {
        noise.check(len)?;
        let (kind, place) = (to.buffer.kind, place_mut(&to, len)?);
        let UniformNoise { key, stream, bound } = noise;
        let noise = luthier_kernels::UniformNoise { key, stream, bound: bound as f32 };
        // SAFETY: the place was checked.
        unsafe { self.stream().add_noise(kind, noise, len, place) }.map_err(EngineError::from)
    }
}

fn below(values: &[u32], limit: usize, what: &str) -> Result<()> {
    match values.iter().find(|value| **value as usize >= limit) {
        None => Ok(()),
        Some(value) => Err(EngineError::internal(format!("{what} {value} is not below {limit}"))),
    }
}
