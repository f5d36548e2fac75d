//! Matrix products through cuBLASLt, with the algorithm of each shape asked for once.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::{result, sys};

use crate::error::{CudaError, Result};
use crate::stream::{DevicePointer, NumberType, Stream};

/// Scratch of an algorithm; what NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Alignment that algorithms make no more use of.
const MOST_ALIGNMENT: u64 = 256;

/// A strided matrix: element (i, j) at `i * row_stride + j * column_stride`, one of the two strides being 1.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    pub pointer: DevicePointer,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl Operand {
    fn transposed(self) -> Self {
        Self { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }
}

/// `c [m, n] = alpha · a [m, k] · b [k, n] (+ start)`. Sums are in f32.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
    /// Type of a and b.
    pub inputs: NumberType,
    pub a: Operand,
    pub b: Operand,
    /// Type of c and of what it starts from.
    pub output: NumberType,
    pub c: Operand,
    /// What is added, with the strides of c; may be c itself.
    pub start: Option<DevicePointer>,
}

/// A column-major matrix as cuBLASLt sees an operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Layout {
    transposed: bool,
    rows: usize,
    columns: usize,
    leading: usize,
    alignment: u64,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    inputs: NumberType,
    output: NumberType,
    left: Layout,
    right: Layout,
    result: Layout,
    start_alignment: u64,
    adds: bool,
}

struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    left: sys::cublasLtMatrixLayout_t,
    right: sys::cublasLtMatrixLayout_t,
    result: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors that are not changed once they are made.
unsafe impl Send for Plan {}

/// Makes products on one stream.
pub struct Multiplier {
    stream: Arc<Stream>,
    handle: sys::cublasLtHandle_t,
    workspace: DevicePointer,
    plans: Mutex<HashMap<Key, Plan>>,
}

// SAFETY: cuBLASLt's handle may be used from any thread.
unsafe impl Send for Multiplier {}
// SAFETY: as above; plans are behind a lock.
unsafe impl Sync for Multiplier {}

fn alignment(pointer: DevicePointer) -> u64 {
    (pointer & pointer.wrapping_neg()).min(MOST_ALIGNMENT)
}

fn data_type(kind: NumberType) -> sys::cudaDataType {
    match kind {
        NumberType::F32 => sys::cudaDataType::CUDA_R_32F,
        NumberType::F16 => sys::cudaDataType::CUDA_R_16F,
        NumberType::BF16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

/// `operand [rows, columns]` as the transpose of a column-major matrix, transposed once more where its columns are contiguous.
fn layout(operand: Operand, rows: usize, columns: usize) -> Layout {
    let alignment = alignment(operand.pointer);
    if operand.column_stride == 1 {
        // Rows are contiguous: column-major, it is [columns, rows], which is the transpose that is wanted.
        Layout { transposed: false, rows: columns, columns: rows, leading: operand.row_stride.max(columns), alignment }
    } else {
        Layout { transposed: true, rows, columns, leading: operand.column_stride.max(rows), alignment }
    }
}

impl Multiplier {
    /// Opens cuBLASLt on a stream's device.
    pub fn new(stream: Arc<Stream>) -> Result<Self> {
        stream.enter()?;
        let workspace = stream.allocate(WORKSPACE_BYTES)?;
        let handle = result::create_handle().map_err(|error| failed("opening cuBLASLt", &error))?;
        Ok(Self { stream, handle, workspace, plans: Mutex::default() })
    }

    /// cuBLASLt's version: 10000 · major + 100 · minor + patch.
    pub fn library_version() -> usize {
        // SAFETY: asks for a constant.
        unsafe { sys::cublasLtGetVersion() }
    }

    /// Bytes of device memory it holds.
    pub fn bytes(&self) -> usize {
        WORKSPACE_BYTES
    }

    /// Starts a product.
    ///
    /// Errors: shapes that cuBLASLt has no algorithm for.
    ///
    /// # Safety
    /// Operands hold numbers of these types and sizes; c overlaps neither a nor b.
    pub unsafe fn multiply(&self, product: &Product) -> Result<()> {
        let Product { m, n, k, alpha, inputs, a, b, output, c, start } = *product;
        if m == 0 || n == 0 {
            return Ok(());
        }
        if c.column_stride != 1 {
            // cᵀ = bᵀ · aᵀ has contiguous rows.
            let turned = Product { m: n, n: m, a: b.transposed(), b: a.transposed(), c: c.transposed(), ..*product };
            // SAFETY: the caller's promise; the turned result has contiguous rows.
            return unsafe { self.multiply(&turned) };
        }
        self.stream.enter()?;
        // Column-major, c is cᵀ [n, m] = bᵀ [n, k] · aᵀ [k, m].
        let (left, right) = (layout(b, k, n), layout(a, m, k));
        let result = layout(c, m, n);
        let from = start.unwrap_or(c.pointer);
        let key = Key { inputs, output, left, right, result, start_alignment: alignment(from), adds: start.is_some() };
        let beta = if start.is_some() { 1.0f32 } else { 0.0 };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if !plans.contains_key(&key) {
            let plan = self
                .plan(&key)
                .map_err(|error| failed(&format!("planning a product of {m}×{k} and {k}×{n}"), &error))?;
            plans.insert(Key { ..key }, plan);
        }
        let Some(plan) = plans.get(&key) else { return Ok(()) };
        // SAFETY: the caller's promise; the plan was made for these layouts and alignments.
        let done = unsafe {
            result::matmul(
                self.handle,
                plan.description,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                b.pointer as *const c_void,
                plan.left,
                a.pointer as *const c_void,
                plan.right,
                from as *const c_void,
                plan.result,
                c.pointer as *mut c_void,
                plan.result,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.raw().cast(),
            )
        };
        done.map_err(|error| failed(&format!("starting a product of {m}×{k} and {k}×{n}"), &error))
    }

    fn plan(&self, key: &Key) -> std::result::Result<Plan, result::CublasError> {
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
        // SAFETY: attributes with values of their types; descriptors made above.
        let algorithm = unsafe {
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
            let found =
                result::get_matmul_algo_heuristic(self.handle, description, left, right, result, result, preference);
            result::destroy_matmul_pref(preference)?;
            found?.algo
        };
        Ok(Plan { description, left, right, result, algorithm })
    }
}

impl Drop for Multiplier {
    fn drop(&mut self) {
        let plans = std::mem::take(&mut *self.plans.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: made by this value and used no more; `free` waits for what is under way.
        unsafe {
            self.stream.free(self.workspace);
            for plan in plans.into_values() {
                for layout in [plan.left, plan.right, plan.result] {
                    let _ = result::destroy_matrix_layout(layout);
                }
                let _ = result::destroy_matmul_desc(plan.description);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}

fn failed(what: &str, error: &result::CublasError) -> CudaError {
    CudaError { what: what.to_owned(), message: format!("{:?}", error.0), out_of_memory: false }
}
