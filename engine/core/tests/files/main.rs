//! Model files made on the spot, read and generated from.

mod allocations;
mod bitsandbytes;
mod families;
mod generation;
mod gguf;
mod gguf_hostile;
mod huggingface;
mod merge;
mod merge_gguf_of_folder;
mod quantize;
mod real_file;
mod support;
mod torch_file;
mod torch_files;
mod torch_hostile;
