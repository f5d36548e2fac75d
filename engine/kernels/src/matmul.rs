//! Matrix products through cuBLASLt, with the algorithm of each shape chosen once.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::{result, sys};

use crate::error::{CudaError, Result};
use crate::matmul_plan::{Key, Plan, layout};
use crate::stream::{DevicePointer, NumberType, Stream};
use crate::tuning::Family;

/// Scratch of an algorithm; what NVIDIA recommends for Hopper.
pub(crate) const WORKSPACE_BYTES: usize = 32 << 20;
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

/// Addresses of a product as cuBLASLt sees it.
pub(crate) struct Call {
    left: DevicePointer,
    right: DevicePointer,
    from: DevicePointer,
    to: DevicePointer,
    adds: bool,
}

/// Makes products on one stream.
pub struct Multiplier {
    pub(crate) stream: Arc<Stream>,
    pub(crate) handle: sys::cublasLtHandle_t,
    workspace: DevicePointer,
    plans: Mutex<HashMap<Key, Plan>>,
    /// Algorithms of large products, chosen by time.
    pub(crate) chosen: Mutex<HashMap<Family, sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: cuBLASLt's handle may be used from any thread.
unsafe impl Send for Multiplier {}
// SAFETY: as above; plans are behind a lock.
unsafe impl Sync for Multiplier {}

pub(crate) fn alignment(pointer: DevicePointer) -> u64 {
    (pointer & pointer.wrapping_neg()).min(MOST_ALIGNMENT)
}

impl Multiplier {
    /// Opens cuBLASLt on a stream's device.
    pub fn new(stream: Arc<Stream>) -> Result<Self> {
        stream.enter()?;
        let workspace = stream.allocate(WORKSPACE_BYTES)?;
        let handle = result::create_handle().map_err(|error| failed("opening cuBLASLt", &error))?;
        Ok(Self { stream, handle, workspace, plans: Mutex::default(), chosen: Mutex::default() })
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
        let call = Call { left: b.pointer, right: a.pointer, from, to: c.pointer, adds: key.adds };
        let what = |doing: &str| format!("{doing} a product of {m}×{k} and {k}×{n}");
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if !plans.contains_key(&key) {
            // SAFETY: the caller's promise.
            let plan = unsafe { self.plan(&key, &call, &what("planning"))? };
            plans.insert(key, plan);
        }
        let Some(plan) = plans.get(&key) else { return Ok(()) };
        // SAFETY: the caller's promise; the plan was made for these layouts and alignments.
        unsafe { self.start(plan, &plan.algorithm, alpha, &call) }.map_err(|error| failed(&what("starting"), &error))
    }

    /// Starts a planned product by an algorithm.
    ///
    /// # Safety
    /// As [`Self::multiply`], with a plan for these operands.
    pub(crate) unsafe fn start(
        &self,
        plan: &Plan,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        alpha: f32,
        call: &Call,
    ) -> std::result::Result<(), result::CublasError> {
        let beta = if call.adds { 1.0f32 } else { 0.0 };
        // SAFETY: the caller's promise.
        unsafe {
            result::matmul(
                self.handle,
                plan.description,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                call.left as *const c_void,
                plan.left,
                call.right as *const c_void,
                plan.right,
                call.from as *const c_void,
                plan.result,
                call.to as *mut c_void,
                plan.result,
                algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.raw().cast(),
            )
        }
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

pub(crate) fn failed(what: &str, error: &result::CublasError) -> CudaError {
    CudaError { what: what.to_owned(), message: format!("{:?}", error.0), out_of_memory: false }
}
