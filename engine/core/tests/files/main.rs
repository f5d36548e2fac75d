//! Model files made on the spot, read and generated from.

mod families;
mod generation;
mod gguf;
mod gguf_hostile;
mod huggingface;
mod real_file;
mod support;
