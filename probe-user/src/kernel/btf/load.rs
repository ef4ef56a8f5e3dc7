//! BTF files of the running kernel under `/sys/kernel/btf`.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use super::parse::{Btf, BtfError};

/// A kernel's BTF has 4 to 10 MB. What is far larger is not BTF, and is not read into memory.
const MAX_LEN: u64 = 128 << 20;

/// Why the BTF of the running kernel could not be had.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error(
        "{} does not exist: this kernel was built without BTF for it (CONFIG_DEBUG_INFO_BTF, \
         CONFIG_DEBUG_INFO_BTF_MODULES), or the module is not loaded",
        .path.display()
    )]
    Missing { path: PathBuf },
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not usable", .path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: BtfError,
    },
}

/// Reads `/sys/kernel/btf/vmlinux` below `root`.
///
/// # Errors
/// [`LoadError::Missing`] when the kernel has no BTF, else what reading or parsing said.
pub fn load_vmlinux(root: &Path) -> Result<Arc<Btf>, LoadError> {
    let path = root.join("sys/kernel/btf/vmlinux");
    let bytes = read(&path)?;
    let btf = Btf::parse(&bytes).map_err(|source| LoadError::Parse { path, source })?;
    Ok(Arc::new(btf))
}

/// Reads `/sys/kernel/btf/MODULE` below `root`, on top of vmlinux.
///
/// # Errors
/// [`LoadError::Missing`] when the module is not loaded, is built in, or the kernel has no module
/// BTF (before 5.11); else what reading or parsing said.
pub fn load_module(root: &Path, module: &str, vmlinux: &Arc<Btf>) -> Result<Arc<Btf>, LoadError> {
    let path = root.join("sys/kernel/btf").join(module);
    let bytes = read(&path)?;
    let btf =
        Btf::parse_split(&bytes, vmlinux).map_err(|source| LoadError::Parse { path, source })?;
    Ok(Arc::new(btf))
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source: io::Error| {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::NotFound {
            LoadError::Missing { path }
        } else {
            LoadError::Read { path, source }
        }
    };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::new();
    // sysfs tells the true size of a BTF file; one read of that size is then enough.
    bytes.reserve_exact(usize::try_from(size.min(MAX_LEN)).unwrap_or(0).saturating_add(1));
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {} MB", MAX_LEN >> 20),
        )));
    }
    Ok(bytes)
}
