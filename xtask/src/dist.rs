//! `cargo xtask dist`: what is given to people: static binaries for both architectures, and an image
//! with them alone.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{
    arch::Arch,
    artifacts, cache,
    oci::{self, Program},
    progress::note,
    setup,
};

/// It is copied to nodes and pulled while things go wrong.
const LARGEST: usize = 8_000_000;

#[derive(clap::Args)]
pub struct Options {
    /// Where to put it.
    #[arg(long, value_name = "DIR", default_value = "dist")]
    pub out: PathBuf,
}

pub fn run(options: Options) -> Result<ExitCode> {
    setup::cross_tools()?;
    cache::create_dir(&options.out)?;
    let mut programs = Vec::new();
    let mut made = Vec::new();
    for arch in Arch::ALL {
        let built = artifacts::stallprobe(arch)?;
        let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
        ensure!(
            bytes.len() < LARGEST,
            "{} has {} bytes, the limit is {LARGEST}",
            built.display(),
            bytes.len()
        );
        let binary = options.out.join(format!("stallprobe-{}", arch.name()));
        fs::copy(&built, &binary).with_context(|| format!("cannot write {}", binary.display()))?;
        made.push((binary, "static binary"));
        programs.push(Program { architecture: arch.debian(), bytes });
    }
    let archive = oci::archive("stallprobe", env!("CARGO_PKG_VERSION"), &programs)?;
    let image = options.out.join("stallprobe-oci.tar");
    fs::write(&image, &archive).with_context(|| format!("cannot write {}", image.display()))?;
    made.push((image, "image archive (OCI) for both"));
    for (path, what) in &made {
        let size = path.metadata().map_or(0, |meta| meta.len());
        note(&format!("{}: {what}, {size} bytes", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}
