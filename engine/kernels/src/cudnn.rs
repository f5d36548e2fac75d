//! Attention by cuDNN. Its library is opened at run time; what it cannot take, or where it is missing, our own kernels do.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use luthier_cudnn::{
    Shape, luthier_cudnn_close, luthier_cudnn_drop, luthier_cudnn_open, luthier_cudnn_plan, luthier_cudnn_run,
    luthier_cudnn_version,
};

use crate::attention::{AttentionArrays, AttentionBackwardArrays, AttentionSizes};
use crate::error::{CudaError, Result};
use crate::stream::{DevicePointer, Launch, NumberType, Stream, launch};

/// As the loader finds it.
const LIBRARY: &str = "libcudnn.so.9";
/// Room for a message of cuDNN's.
const MESSAGE_BYTES: usize = 1024;
/// Of the arrays, the first that are made here.
const FIRST_PLANNED_ARRAY: usize = 9;
/// Of workspace within scratch.
const ALIGNMENT: usize = 256;

/// cuDNN with its plans for the shapes met so far.
pub struct Cudnn {
    stream: Arc<Stream>,
    handle: *mut c_void,
    /// None: cuDNN does not take the shape.
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

// SAFETY: the handle and the plans are used under the lock only.
unsafe impl Send for Cudnn {}
// SAFETY: as above.
unsafe impl Sync for Cudnn {}

/// What a plan was made for; lengths are rounded up, as batches of one run differ in theirs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    sequences: usize,
    longest: usize,
    rows: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    kind: NumberType,
    backward: bool,
}

#[derive(Clone, Copy)]
struct Plan {
    graph: *mut c_void,
    workspace_bytes: usize,
}

impl Key {
    fn new(kind: NumberType, sizes: AttentionSizes, backward: bool) -> Self {
        let AttentionSizes { sequences, longest, rows, heads, key_value_heads, head_dim, window, .. } = sizes;
        // One that hides nothing is none: it needs no plan of its own.
        let window = window.filter(|window| *window < longest);
        // Only the backward pass sizes its workspace by all rows.
        let (longest, rows) = (rounded_up(longest), if backward { rounded_up(rows) } else { 0 });
        Self { sequences, longest, rows, heads, key_value_heads, head_dim, window, kind, backward }
    }

    fn shape(self) -> Shape {
        Shape {
            sequences: self.sequences as i64,
            longest: self.longest as i64,
            rows: self.rows as i64,
            heads: self.heads as i64,
            key_value_heads: self.key_value_heads as i64,
            head_dim: self.head_dim as i64,
            window: self.window.unwrap_or(0) as i64,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            bf16: i32::from(self.kind == NumberType::BF16),
            backward: i32::from(self.backward),
        }
    }

    /// Bytes of lengths and offsets, before the workspace.
    fn integer_bytes(self) -> usize {
        (4 * (self.sequences + 1) * size_of::<i32>()).next_multiple_of(ALIGNMENT)
    }
}

/// To half of the power of two below, and to 64 at least: planning takes as long as many small steps, and rows for nothing are passed over. By
/// the numbers alone, so that a batch is computed in the same way whatever came before it.
fn rounded_up(rows: usize) -> usize {
    rows.next_multiple_of((1 << rows.max(1).ilog2() >> 1).max(64))
}

impl Cudnn {
    /// Opens the library.
    ///
    /// Errors: why it cannot be used, in the loader's or cuDNN's words.
    pub fn open(stream: Arc<Stream>) -> std::result::Result<Self, String> {
        stream.enter().map_err(|error| error.to_string())?;
        let name = CString::new(LIBRARY).map_err(|error| error.to_string())?;
        let mut message = [0u8; MESSAGE_BYTES];
        // SAFETY: a name that ends with 0, and room for the message.
        let handle = unsafe { luthier_cudnn_open(name.as_ptr(), message.as_mut_ptr().cast(), MESSAGE_BYTES) };
        if handle.is_null() {
            return Err(text(&message));
        }
        Ok(Self { stream, handle, plans: Mutex::default() })
    }

    /// Such as `9.14.0`.
    pub fn version() -> String {
        // SAFETY: reads a constant of the library that `open` opened; 0 without one.
        let version = unsafe { luthier_cudnn_version() };
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// Bytes of scratch for attention of these sizes; none where cuDNN does not take it.
    pub fn scratch_bytes(&self, kind: NumberType, sizes: AttentionSizes, backward: bool) -> Option<usize> {
        // Offsets are 32-bit integers.
        let numbers = sizes.rows * sizes.heads * sizes.head_dim;
        if kind == NumberType::F32 || sizes.alibi || sizes.rows == 0 || i32::try_from(numbers).is_err() {
            return None;
        }
        let key = Key::new(kind, sizes, backward);
        self.plan(key).map(|plan| key.integer_bytes() + plan.workspace_bytes)
    }

    fn plan(&self, key: Key) -> Option<Plan> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        *plans.entry(key).or_insert_with(|| {
            self.stream.enter().ok()?;
            let (shape, mut workspace, mut message) = (key.shape(), 0, [0u8; MESSAGE_BYTES]);
            // SAFETY: an open handle, and room for what is written.
            let graph = unsafe {
                let to = message.as_mut_ptr().cast();
                luthier_cudnn_plan(self.handle, &raw const shape, &raw mut workspace, to, MESSAGE_BYTES)
            };
            (!graph.is_null()).then(|| Plan { graph, workspace_bytes: workspace.max(0) as usize })
        })
    }

    /// Attention as [`Stream::attention`] does it, or with `backward` its gradients.
    ///
    /// # Safety
    /// As there; `scratch` has [`Self::scratch_bytes`] for these sizes and is aligned to 256.
    pub unsafe fn attention(
        &self,
        kind: NumberType,
        sizes: AttentionSizes,
        arrays: &AttentionArrays,
        backward: Option<&AttentionBackwardArrays>,
        scratch: DevicePointer,
    ) -> Result<()> {
        let key = Key::new(kind, sizes, backward.is_some());
        let failed =
            |message: String| CudaError { what: "attention by cuDNN".to_owned(), message, out_of_memory: false };
        let plan = self.plan(key).ok_or_else(|| failed(format!("no plan for {sizes:?}")))?;
        let AttentionArrays { borders, query, key: keys, value, output, log_sum_exp } = *arrays;
        let count = sizes.sequences + 1;
        let integers: [DevicePointer; 4] =
            std::array::from_fn(|index| scratch + (index * count * size_of::<i32>()) as u64);
        let [lengths, query_offsets, key_offsets, sum_offsets] = integers;
        let mut places = [0; luthier_cudnn::ARRAYS];
        places[..5].copy_from_slice(&[query, keys, value, output, log_sum_exp]);
        if let Some(backward) = backward {
            let AttentionBackwardArrays { output_grad, query_grad, key_grad, value_grad } = *backward;
            places[5..FIRST_PLANNED_ARRAY].copy_from_slice(&[output_grad, query_grad, key_grad, value_grad]);
        }
        places[FIRST_PLANNED_ARRAY..].copy_from_slice(&integers);
        let places = places.map(|place| place as *mut c_void);
        let widths = [sizes.heads * sizes.head_dim, sizes.key_value_heads * sizes.head_dim, sizes.heads]
            .map(|width| width as i32);
        let [query_width, key_width, sum_width] = widths;
        // SAFETY: the caller's promise: the integers have their place at the start of scratch.
        unsafe {
            launch!(
                self.stream,
                "attention_offsets",
                Launch::blocks(count.div_ceil(256), 256),
                count as i32,
                query_width,
                key_width,
                sum_width,
                borders,
                lengths,
                query_offsets,
                key_offsets,
                sum_offsets
            )?;
        }
        let workspace = scratch + key.integer_bytes() as u64;
        let mut message = [0u8; MESSAGE_BYTES];
        // One at a time: the handle has one stream and is not for several threads.
        let _plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's promise, and a plan that lives as long as `self`.
        let status = unsafe {
            luthier_cudnn_run(
                self.handle,
                plan.graph,
                self.stream.raw().cast(),
                places.as_ptr(),
                workspace as *mut c_void,
                message.as_mut_ptr().cast(),
                MESSAGE_BYTES,
            )
        };
        if status == 0 { Ok(()) } else { Err(failed(text(&message))) }
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        let plans = std::mem::take(&mut *self.plans.lock().unwrap_or_else(PoisonError::into_inner));
        if self.stream.synchronize().is_err() {
            return;
        }
        // SAFETY: made by this value, used no more.
        unsafe {
            plans.into_values().flatten().for_each(|plan| luthier_cudnn_drop(plan.graph));
            luthier_cudnn_close(self.handle);
        }
    }
}

fn text(message: &[u8]) -> String {
    let end = message.iter().position(|byte| *byte == 0).unwrap_or(message.len());
    String::from_utf8_lossy(&message[..end]).into_owned()
}
