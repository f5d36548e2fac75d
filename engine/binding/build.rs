use std::env;

/// The folders of the CUDA libraries that the addon was linked with or opens: a machine that builds it can run it without LD_LIBRARY_PATH.
const LIBRARIES: &str = "LUTHIER_CUDA_LIBRARIES";

fn main() {
    napi_build::setup();
    println!("cargo:rerun-if-env-changed={LIBRARIES}");
    if let (Some(folders), true) = (env::var_os(LIBRARIES), env::var_os("CARGO_FEATURE_CUDA").is_some()) {
        for folder in env::split_paths(&folders) {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,{}", folder.display());
        }
    }
}
