//! Compiles what calls cuDNN. Its library is opened at run time: the headers of cuDNN and of its C++ frontend are enough.

use std::env;
use std::path::{Path, PathBuf};

/// Folders, as in PATH, where cuDNN's headers are looked for besides the toolkit.
const CUDNN_INCLUDE: &str = "LUTHIER_CUDNN_INCLUDE";

fn main() {
    println!("cargo:rerun-if-changed=attention.cpp");
    for name in [CUDNN_INCLUDE, "CUDA_HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let toolkit = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("include"));
    let named = env::var_os(CUDNN_INCLUDE).unwrap_or_default();
    let folders: Vec<PathBuf> =
        env::split_paths(&named).chain(toolkit).chain([PathBuf::from("/usr/include")]).collect();
    assert!(
        folders.iter().any(|folder| folder.join("cudnn_frontend.h").exists()),
        "there is no cudnn_frontend.h in {folders:?}; install the headers of cuDNN 9 and of its C++ frontend and set {CUDNN_INCLUDE}, \
         or use `npm run build:cuda`"
    );
    let mut build = cc::Build::new();
    // The compiler looks in /usr/include by itself, and in the right order.
    for folder in folders.iter().filter(|folder| folder.exists() && !folder.ends_with("usr/include")) {
        // Their warnings are not ours.
        build.flag("-isystem").flag(folder);
    }
    // Plans are made once for a shape: a short compilation is worth more than a fast one.
    build.cpp(true).std("c++17").opt_level(1).debug(false).file("attention.cpp").compile("luthier_cudnn");
}
