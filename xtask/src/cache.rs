//! What is kept per user between runs: packages, unpacked kernels, initramfs images.
//!
//! Everything appears under its final name only when it is whole: it is made beside it and renamed.
use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// The cache folder: `$XDG_CACHE_HOME/stallprobe`, by default `~/.cache/stallprobe`.
#[derive(Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    pub fn open() -> Result<Self> {
        let base = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from) {
            Some(path) if path.is_absolute() => path,
            _ => env::home_dir()
                .context("no home folder known: set HOME or XDG_CACHE_HOME")?
                .join(".cache"),
        };
        let root = base.join("stallprobe");
        create_dir(&root)?;
        Ok(Self { root })
    }

    pub fn debs(&self) -> Result<PathBuf> {
        self.folder("debs")
    }

    pub fn kernels(&self) -> Result<PathBuf> {
        self.folder("kernels")
    }

    pub fn initramfs(&self) -> Result<PathBuf> {
        self.folder("initramfs")
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        create_dir(&path)?;
        Ok(path)
    }

    /// Keeps other set-ups of the same user out until the returned file is dropped.
    pub fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            crate::progress::note("waiting for another set-up of this user to finish");
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }
}

pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// A folder beside `target` that becomes `target` by [`Staging::publish`] and goes away otherwise.
pub struct Staging {
    path: PathBuf,
    target: PathBuf,
}

impl Staging {
    pub fn beside(target: &Path) -> Result<Self> {
        let mut name = target.file_name().context("a cache path without a name")?.to_owned();
        name.push(format!(".part-{}", std::process::id()));
        let path = target.with_file_name(name);
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        create_dir(&path)?;
        Ok(Self { path, target: target.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn publish(self) -> Result<()> {
        fs::rename(&self.path, &self.target).with_context(|| {
            format!("cannot rename {} to {}", self.path.display(), self.target.display())
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After publish() nothing is left under this name.
        let _gone = fs::remove_dir_all(&self.path);
    }
}

/// Runs a host command to its end; its output is shown only when it fails.
pub fn run_quietly(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    ensure!(
        output.status.success(),
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}
