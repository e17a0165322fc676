//! Generates the message types and the async ttrpc services from the committed `.proto` files.
//! Pure Rust: no `protoc` is needed.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

const PROTOS: [&str; 7] = [
    "proto/kata/agent.proto",
    "proto/kata/csi.proto",
    "proto/kata/health.proto",
    "proto/kata/oci.proto",
    "proto/kata/types.proto",
    "proto/seed/management_v1.proto",
    "proto/seed/v1.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A folder of its own, made anew: a generator adds to a `mod.rs` that it finds, so that the
    // module of a deleted .proto file would stay.
    let out = PathBuf::from(env::var("OUT_DIR")?).join("generated");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir(&out)?;
    println!("cargo:rerun-if-changed=proto");
    Codegen::new()
        .out_dir(&out)
        .inputs(PROTOS)
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(true))
        .customize(Customize {
            async_all: true,
            gen_mod: true,
            ..Default::default()
        })
        .run()?;
    for file in fs::read_dir(&out)? {
        drop_attributes_against_the_crate(&file?.path())?;
    }
    Ok(())
}

/// Takes out the two inner attributes that the generators write and the compiler refuses: `allow` for
/// unsafe code (there is none, and the crate forbids it) and, in the included `mod.rs`, rustfmt's skip.
fn drop_attributes_against_the_crate(path: &Path) -> io::Result<()> {
    let included = path.file_name().is_some_and(|name| name == "mod.rs");
    let refused =
        |line: &str| line == "#![allow(unsafe_code)]" || (included && line.starts_with("#!["));
    let source = fs::read_to_string(path)?;
    let kept: Vec<&str> = source.lines().filter(|line| !refused(line)).collect();
    fs::write(path, kept.join("\n") + "\n")
}
