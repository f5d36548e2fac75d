//! Compiles every `cuda/*.cu` with nvcc into one fat binary each: machine code for Hopper and Ampere, and PTX for what comes after. Compiles
//! what calls cuDNN, whose library is opened at run time: its headers and those of its C++ frontend are enough.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Targets: Hopper with its own instructions, Ampere (which Ada runs, too), and PTX that newer drivers compile for newer chips.
const TARGETS: [&str; 3] =
    ["arch=compute_90a,code=sm_90a", "arch=compute_80,code=sm_80", "arch=compute_80,code=compute_80"];

/// Folders, as in PATH, where cuDNN's headers are looked for besides the toolkit.
const CUDNN_INCLUDE: &str = "LUTHIER_CUDNN_INCLUDE";

fn main() {
    compile_kernels();
    compile_cudnn();
}

fn compile_cudnn() {
    println!("cargo:rerun-if-changed=cudnn");
    println!("cargo:rerun-if-env-changed={CUDNN_INCLUDE}");
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
    build.cpp(true).std("c++17").opt_level(1).debug(false).file("cudnn/attention.cpp").compile("luthier_cudnn");
}

fn compile_kernels() {
    let sources = Path::new("cuda");
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let nvcc = env::var_os("CUDA_HOME").map_or_else(|| PathBuf::from("nvcc"), |home| Path::new(&home).join("bin/nvcc"));
    let entries = fs::read_dir(sources).expect("the folder `cuda` lies beside build.rs");
    for path in entries.map(|entry| entry.expect("a readable folder").path()) {
        if path.extension() != Some(OsStr::new("cu")) {
            continue;
        }
        let name = path.file_stem().and_then(OsStr::to_str).expect("sources have plain names");
        let mut command = Command::new(&nvcc);
        command.args(["-std=c++20", "-O3", "-fatbin", "-Werror=all-warnings"]);
        for target in TARGETS {
            command.args(["-gencode", target]);
        }
        command.arg(&path).arg("-o").arg(out.join(format!("{name}.fatbin")));
        let status = command.status().unwrap_or_else(|error| {
            panic!(
                "cannot start {}: {error}; install CUDA 12.8 or later and set CUDA_HOME, or use `npm run build:cuda`",
                nvcc.display()
            )
        });
        assert!(status.success(), "{} could not compile {}", nvcc.display(), path.display());
    }
}
