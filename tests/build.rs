//! Generates the messages of the harness: CRI's and containerd's. Pure Rust: no `protoc` is needed.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    protobuf_codegen::Codegen::new()
        .pure()
        .out_dir(&out)
        .include("proto")
        .input("proto/cri.proto")
        .input("proto/tasks.proto")
        .run()?;
    // What is included cannot have attributes of its own: they stand where it is included.
    for name in ["cri.rs", "tasks.rs"] {
        let path = out.join(name);
        let source = fs::read_to_string(&path)?;
        let kept: Vec<_> = source
            .lines()
            .filter(|line| !line.starts_with("#![") && !line.starts_with("//!"))
            .collect();
        fs::write(&path, kept.join("\n") + "\n")?;
    }
    Ok(())
}
