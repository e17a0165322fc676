//! Generates the message types and the async ttrpc services from the committed `.proto` files.
//! Pure Rust: no `protoc` is needed.

use std::{env, path::PathBuf};

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
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");
    Codegen::new()
        .out_dir(&out)
        .inputs(PROTOS)
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(true))
        .customize(Customize { async_all: true, gen_mod: true, ..Default::default() })
        .run()?;
    Ok(())
}
