//! Compiles every `cuda/*.cu` with nvcc into one fat binary each: machine code for Hopper and Ampere, and PTX for what comes after.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Targets: Hopper with its own instructions, Ampere (which Ada runs, too), and PTX that newer drivers compile for newer chips.
const TARGETS: [&str; 3] =
    ["arch=compute_90a,code=sm_90a", "arch=compute_80,code=sm_80", "arch=compute_80,code=compute_80"];

fn main() {
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
