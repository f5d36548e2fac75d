//! `quantize MODEL TYPE FOLDER`: quantizes a model ahead, for `test/parity/check_quantized_ahead.py`.

use std::path::Path;

use luthier_core::quantize::{QuantizeRequest, quantize};
use luthier_core::{EngineError, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, storage, folder] = &arguments[..] else {
        return Err(EngineError::invalid("expected MODEL int8|nf4|nf4_double_quant FOLDER"));
    };
    std::fs::create_dir_all(folder).map_err(|cause| EngineError::io("create", Path::new(folder), &cause))?;
    let request = QuantizeRequest { base: Path::new(base), storage: storage.parse()?, shard_bytes: 5_000_000_000 };
    println!("{} bytes", quantize(&request, Path::new(folder), &mut |_| true)?);
    Ok(())
}
