//! Model files made on the spot, read and generated from.

mod generation;
mod gguf;
mod gguf_hostile;
mod huggingface;
mod merge;
mod real_file;
mod support;
