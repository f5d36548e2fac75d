//! Descriptors and algorithm of a product, as cuBLASLt wants them.

use std::sync::PoisonError;

use cudarc::cublaslt::{result, sys};

use crate::error::Result;
use crate::matmul::{Call, Multiplier, Operand, WORKSPACE_BYTES, alignment, failed};
use crate::stream::NumberType;
use crate::tuning::{self, Family};

/// A column-major matrix as cuBLASLt sees an operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    pub transposed: bool,
    pub rows: usize,
    pub columns: usize,
    pub leading: usize,
    pub alignment: u64,
}

/// What a product's plan depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub inputs: NumberType,
    pub output: NumberType,
    pub left: Layout,
    pub right: Layout,
    pub result: Layout,
    pub start_alignment: u64,
    pub adds: bool,
}

type Proposals = Vec<sys::cublasLtMatmulHeuristicResult_t>;

/// Descriptors of a product, and how it is computed.
pub(crate) struct Plan {
    pub description: sys::cublasLtMatmulDesc_t,
    pub left: sys::cublasLtMatrixLayout_t,
    pub right: sys::cublasLtMatrixLayout_t,
    pub result: sys::cublasLtMatrixLayout_t,
    pub algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors that are not changed once they are made.
unsafe impl Send for Plan {}

fn data_type(kind: NumberType) -> sys::cudaDataType {
    match kind {
        NumberType::F32 => sys::cudaDataType::CUDA_R_32F,
        NumberType::F16 => sys::cudaDataType::CUDA_R_16F,
        NumberType::BF16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

/// `operand [rows, columns]` as the transpose of a column-major matrix, transposed once more where its columns are contiguous.
pub(crate) fn layout(operand: Operand, rows: usize, columns: usize) -> Layout {
    let alignment = alignment(operand.pointer);
    if operand.column_stride == 1 {
        // Rows are contiguous: column-major, it is [columns, rows], which is the transpose that is wanted.
        Layout { transposed: false, rows: columns, columns: rows, leading: operand.row_stride.max(columns), alignment }
    } else {
        Layout { transposed: true, rows, columns, leading: operand.column_stride.max(rows), alignment }
    }
}

impl Multiplier {
    /// Plans products of these layouts.
    ///
    /// # Safety
    /// As [`Self::multiply`], for a product that is about to be started.
    pub(crate) unsafe fn plan(&self, key: &Key, call: &Call, what: &str) -> Result<Plan> {
        let (mut plan, proposals) = self.describe(key).map_err(|error| failed(what, &error))?;
        let Some(family) = Family::of(key) else { return Ok(plan) };
        let algorithms = tuning::worth_trying(&proposals);
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chosen.get(&family).map(|known| known.data);
        plan.algorithm = match known {
            // One that does not take these sizes is not among their proposals.
            Some(data) => algorithms.into_iter().find(|found| found.data == data).unwrap_or(plan.algorithm),
            None => {
                // The product times next to nothing leaves what it is added to as it is, so that it can be made many times.
                const NEXT_TO_NOTHING: f32 = 1e-38;
                let run = |algorithm: &sys::cublasLtMatmulAlgo_t| {
                    // SAFETY: the caller's promise.
                    unsafe { self.start(&plan, algorithm, NEXT_TO_NOTHING, call) }.map_err(|error| failed(what, &error))
                };
                let fastest = tuning::fastest(&self.stream, &algorithms, run)?;
                chosen.insert(family, fastest);
                fastest
            }
        };
        Ok(plan)
    }

    /// Descriptors of a product, and cuBLASLt's proposals, best first by its own judgement; the plan has the first one.
    fn describe(&self, key: &Key) -> std::result::Result<(Plan, Proposals), result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)?;
        let matrix = |layout: &Layout, kind: NumberType| {
            result::create_matrix_layout(
                data_type(kind),
                layout.rows as u64,
                layout.columns as u64,
                layout.leading as i64,
            )
        };
        let left = matrix(&key.left, key.inputs)?;
        let right = matrix(&key.right, key.inputs)?;
        let result = matrix(&key.result, key.output)?;
        let preference = result::create_matmul_pref()?;
        let mut proposals = Proposals::with_capacity(tuning::PROPOSALS);
        // SAFETY: attributes with values of their types; descriptors made above; room for as many proposals as are asked for.
        unsafe {
            for (attribute, layout) in [
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &key.left),
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &key.right),
            ] {
                // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
                let transpose = i32::from(layout.transposed);
                result::set_matmul_desc_attribute(description, attribute, std::ptr::from_ref(&transpose).cast(), 4)?;
            }
            let bytes = WORKSPACE_BYTES as u64;
            let most = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, most, std::ptr::from_ref(&bytes).cast(), 8)?;
            for (attribute, alignment) in [
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.left.alignment),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.right.alignment),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.start_alignment),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.result.alignment),
            ] {
                let alignment = alignment as u32;
                result::set_matmul_pref_attribute(preference, attribute, std::ptr::from_ref(&alignment).cast(), 4)?;
            }
            let (most, mut count) = (proposals.capacity() as i32, 0);
            let (to, handle) = (proposals.as_mut_ptr(), self.handle);
            let status = sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                description,
                left,
                right,
                result,
                result,
                preference,
                most,
                to,
                &raw mut count,
            );
            result::destroy_matmul_pref(preference)?;
            status.result()?;
            proposals.set_len(usize::try_from(count).unwrap_or(0));
        }
        let none = result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
        let algorithm = proposals.first().ok_or(none)?.algo;
        Ok((Plan { description, left, right, result, algorithm }, proposals))
    }
}
