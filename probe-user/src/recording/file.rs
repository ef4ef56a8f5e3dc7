//! Where the bytes of a recording go: a file that only its owner may read, or standard output, each
//! compressed or not. Whole blocks come in; what is in the file after an error, too, are whole blocks.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use zstd::stream::write::Encoder;

/// Bytes that may wait for the next flush.
const WAITING: usize = 256 * 1024;

/// Of zstd's levels the one that is its default: some 400 MB a second.
const LEVEL: i32 = 3;

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    File(PathBuf),
}

impl Target {
    /// `-` is standard output.
    pub fn new(path: &Path) -> Self {
        if path == Path::new("-") { Self::Stdout } else { Self::File(path.to_owned()) }
    }
}

/// One file that is being written.
pub struct Part {
    to: To,
    zstd: Option<Encoder<'static, Vec<u8>>>,
    waiting: Vec<u8>,
    /// Bytes that are in the file.
    written: u64,
}

enum To {
    Stdout(io::Stdout),
    File(File, PathBuf),
}

impl Part {
    /// Opens it, readable for its owner alone. What was in the file is gone.
    ///
    /// # Errors
    /// When the file cannot be written, is a symbolic link (somebody else may have put it there), or
    /// is no plain file.
    pub fn create(target: &Target, compress: bool) -> Result<Self> {
        let to = match target {
            Target::Stdout => To::Stdout(io::stdout()),
            Target::File(path) => To::File(open(path)?, path.clone()),
        };
        let encoder = || Encoder::new(Vec::new(), LEVEL).context("cannot start zstd");
        let zstd = compress.then(encoder).transpose()?;
        Ok(Self { to, zstd, waiting: Vec::new(), written: 0 })
    }

    /// Bytes written, and those that wait.
    pub fn size(&self) -> u64 {
        self.written + self.waiting.len() as u64
    }

    /// Writes what waits. A file that was removed meanwhile is an error: nobody would find it.
    ///
    /// # Errors
    /// When it cannot be written. The file is then cut to the blocks that are whole.
    pub fn drain(&mut self) -> Result<()> {
        let bytes = match &mut self.zstd {
            Some(zstd) if !self.waiting.is_empty() => {
                zstd.write_all(&self.waiting).and_then(|()| zstd.flush()).context("zstd failed")?;
                std::mem::take(zstd.get_mut())
            }
            Some(_) => Vec::new(),
            None => std::mem::take(&mut self.waiting),
        };
        self.waiting.clear();
        self.put(&bytes)
    }

    /// Writes all there is and makes sure that it is on the disk.
    ///
    /// # Errors
    /// As [`Self::drain`].
    pub fn finish(mut self) -> Result<u64> {
        self.drain()?;
        if let Some(zstd) = self.zstd.take() {
            let bytes = zstd.finish().context("zstd failed")?;
            self.put(&bytes)?;
        }
        if let To::File(file, path) = &self.to {
            // A pipe or a device cannot be synced, and needs not.
            let synced = file.sync_all().or_else(|err| {
                if err.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(err) }
            });
            synced.with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(self.written)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.to {
            To::Stdout(out) => out
                .write_all(bytes)
                .and_then(|()| out.flush())
                .context("cannot write to standard output")?,
            To::File(file, path) => {
                let links = file.metadata().map(|meta| meta.nlink());
                if links.with_context(|| format!("cannot look at {}", path.display()))? == 0 {
                    bail!("{} was removed", path.display());
                }
                if let Err(err) = file.write_all(bytes) {
                    // The end of a block that is missing would look like damage.
                    let cut = file.set_len(self.written);
                    let cut = cut.err().map_or(String::new(), |err| format!(" (nor cut it: {err})"));
                    let path = path.display();
                    return Err(err).with_context(|| format!("cannot write {path}{cut}"));
                }
            }
        }
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Takes whole blocks.
impl Write for Part {
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        if self.waiting.len() + block.len() > WAITING {
            self.flush()?;
        }
        self.waiting.extend_from_slice(block);
        Ok(block.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.drain().map_err(|err| io::Error::other(format!("{err:#}")))
    }
}

fn open(path: &Path) -> Result<File> {
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match open {
        Ok(file) => file,
        Err(err) if err.raw_os_error() == Some(libc::ELOOP) => {
            bail!("{} is a symbolic link: name the file itself, or - for standard output", path.display())
        }
        Err(err) => return Err(err).with_context(|| format!("cannot create {}", path.display())),
    };
    let meta = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    if !meta.is_file() {
        bail!("{} is no plain file; - is standard output", path.display());
    }
    // One that was there may be open to others.
    file.set_permissions(PermissionsExt::from_mode(0o600))
        .and_then(|()| file.set_len(0))
        .with_context(|| format!("cannot take over {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_its_owners_alone_also_one_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcapng");
        std::fs::write(&path, "something longer").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let mut part = Part::create(&Target::new(&path), false).unwrap();
        part.write_all(b"block").unwrap();
        assert_eq!((part.size(), std::fs::read(&path).unwrap().len()), (5, 0));
        part.drain().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"block");
        assert_eq!((part.finish().unwrap(), mode(&path)), (5, 0o600));
        let new = dir.path().join("b");
        drop(Part::create(&Target::new(&new), false).unwrap());
        assert_eq!(mode(&new), 0o600);
    }

    #[test]
    fn compressed_bytes_can_be_read_up_to_the_last_flush() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.zst");
        let mut part = Part::create(&Target::new(&path), true).unwrap();
        part.write_all(b"one").unwrap();
        part.drain().unwrap();
        part.write_all(b"two").unwrap();
        let mut read = String::new();
        let file = File::open(&path).unwrap();
        let mut decoder = zstd::stream::read::Decoder::new(file).unwrap();
        assert!(io::Read::read_to_string(&mut decoder, &mut read).is_err());
        assert_eq!(read, "one");
        part.finish().unwrap();
        assert_eq!(zstd::decode_all(File::open(&path).unwrap()).unwrap(), b"onetwo");
    }

    #[test]
    fn what_is_removed_a_link_or_no_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut part = Part::create(&Target::new(&path), false).unwrap();
        std::fs::remove_file(&path).unwrap();
        part.write_all(b"block").unwrap();
        assert!(part.drain().unwrap_err().to_string().ends_with("/a was removed"));
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        let err = Part::create(&Target::new(&path), false).err().unwrap().to_string();
        assert!(err.contains("symbolic link"), "{err}");
        let err = Part::create(&Target::new(dir.path()), false).err().unwrap();
        assert!(format!("{err:#}").contains("cannot create"), "{err:#}");
        let err = Part::create(&Target::new(Path::new("/dev/full")), false).err().unwrap();
        assert!(err.to_string().contains("no plain file"), "{err}");
    }
}
