//! Compresses the models that are built into the program (`src/model/file.rs`).

use std::path::Path;

/// A model of 5 MB is 1.8 MB then; at level 3 it is 2.3 MB.
const LEVEL: i32 = 19;

fn main() -> std::io::Result<()> {
    let to = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    for model in ["protocols", "devices", "behaviours"] {
        let path = format!("config/models/{model}.safetensors");
        println!("cargo::rerun-if-changed={path}");
        std::fs::write(Path::new(&to).join(format!("{model}.zst")), zstd::bulk::compress(&std::fs::read(path)?, LEVEL)?)?;
    }
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}
