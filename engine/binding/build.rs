use std::env;

/// The folder of the CUDA libraries that the addon was linked with: a machine that builds it can run it without LD_LIBRARY_PATH.
const LIBRARIES: &str = "LUTHIER_CUDA_LIBRARIES";

fn main() {
    napi_build::setup();
    println!("cargo:rerun-if-env-changed={LIBRARIES}");
    if let (Ok(folder), true) = (env::var(LIBRARIES), env::var_os("CARGO_FEATURE_CUDA").is_some()) {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,{folder}");
    }
}
