//! The C functions of `attention.cpp`. Those that can fail write a message of at most `room` bytes, ended by 0.

use std::ffi::{c_char, c_void};

/// Arrays of a graph, in the order of `Array` in `attention.cpp`.
pub const ARRAYS: usize = 13;

/// Attention over packed sequences: what a plan is made for.
#[repr(C)]
#[derive(Debug)]
pub struct Shape {
    pub sequences: i64,
    /// Rows of the longest sequence, and of all, which only the backward pass needs; at least.
    pub longest: i64,
    pub rows: i64,
    pub heads: i64,
    pub key_value_heads: i64,
    pub head_dim: i64,
    /// Last positions that a position sees, itself among them; 0: all positions before it.
    pub window: i64,
    /// Of scores.
    pub scale: f32,
    /// 1: bf16; 0: f16.
    pub bf16: i32,
    /// 1: gradients; 0: the forward pass.
    pub backward: i32,
}

unsafe extern "C" {
    /// Opens cuDNN under a name or path, and a handle for the current context; null where it fails.
    pub fn luthier_cudnn_open(library: *const c_char, message: *mut c_char, room: usize) -> *mut c_void;
    /// Closes a handle; its plans are gone before.
    pub fn luthier_cudnn_close(handle: *mut c_void);
    /// Such as 91900.
    pub fn luthier_cudnn_version() -> usize;
    /// Plans attention; null where cuDNN does not take the shape.
    pub fn luthier_cudnn_plan(
        handle: *mut c_void,
        shape: *const Shape,
        workspace_bytes: *mut i64,
        message: *mut c_char,
        room: usize,
    ) -> *mut c_void;
    /// Forgets a plan.
    pub fn luthier_cudnn_drop(plan: *mut c_void);
    /// Starts a plan on a stream, with [`ARRAYS`] addresses on the device; 0 where it worked.
    pub fn luthier_cudnn_run(
        handle: *mut c_void,
        plan: *mut c_void,
        stream: *mut c_void,
        arrays: *const *mut c_void,
        workspace: *mut c_void,
        message: *mut c_char,
        room: usize,
    ) -> i32;
}
