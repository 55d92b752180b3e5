//! Compiles the .proto files in Rust (protox), so that nobody needs protoc.
//!
//! Two artefacts: the Rust code of package `z4.v1`, and the file descriptor set that reflection serves.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 5] = [
    "z4/v1/tasks.proto",
    "z4/v1/queues.proto",
    "z4/v1/schedules.proto",
    "z4/v1/events.proto",
    "z4/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("z4.v1.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    // `bytes`: payloads share the frame's allocation. `btree_map`: metadata in key order, the order of the log.
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
