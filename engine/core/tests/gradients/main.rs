//! Backward passes: each operation and the whole decoder against central differences in f64, the decoder in f32 against candle's autograd.

mod attention;
mod autograd;
mod decoder;
mod differences;
mod model;
mod operations;
