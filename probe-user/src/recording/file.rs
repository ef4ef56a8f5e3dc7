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
    /// With what it gave out and is not in the file yet.
    zstd: Option<Encoder<'static, Vec<u8>>>,
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
        Ok(Self { to, zstd, written: 0 })
    }

    /// Bytes that are in the file.
    pub fn size(&self) -> u64 {
        self.written
    }

    /// Writes all there is and makes sure that it is on the disk.
    ///
    /// # Errors
    /// As [`Write::write`].
    pub fn finish(mut self) -> Result<u64> {
        if let Some(zstd) = self.zstd.take() {
            let bytes = zstd.finish().context("cannot compress")?;
            self.put(&bytes)?;
        }
        if let To::File(file, path) = &self.to {
            file.sync_all().with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(self.written)
    }

    fn compressed(zstd: &mut Encoder<'static, Vec<u8>>, blocks: &[u8]) -> io::Result<Vec<u8>> {
        zstd.write_all(blocks)?;
        // A reader gets all of it although the stream goes on.
        zstd.flush()?;
        Ok(std::mem::take(zstd.get_mut()))
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
                    let cut =
                        cut.err().map_or(String::new(), |err| format!(" (nor cut it: {err})"));
                    let path = path.display();
                    return Err(err).with_context(|| format!("cannot write {path}{cut}"));
                }
            }
        }
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Takes whole blocks. After an error the file is cut to those that were written before. A file that was
/// removed is an error too: nobody would find it.
impl Write for Part {
    fn write(&mut self, blocks: &[u8]) -> io::Result<usize> {
        let put = match &mut self.zstd {
            Some(zstd) => Self::compressed(zstd, blocks)
                .context("cannot compress")
                .and_then(|bytes| self.put(&bytes)),
            None => self.put(blocks),
        };
        put.map(|()| blocks.len()).map_err(|err| io::Error::other(format!("{err:#}")))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
            bail!(
                "{} is a symbolic link: name the file itself, or - for standard output",
                path.display()
            )
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
        assert_eq!((part.size(), std::fs::read(&path).unwrap().len()), (0, 0));
        part.write_all(b"block").unwrap();
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
        let mut read = String::new();
        let file = File::open(&path).unwrap();
        let mut decoder = zstd::stream::read::Decoder::new(file).unwrap();
        assert!(io::Read::read_to_string(&mut decoder, &mut read).is_err());
        assert_eq!(read, "one");
        part.write_all(b"two").unwrap();
        part.finish().unwrap();
        assert_eq!(zstd::decode_all(File::open(&path).unwrap()).unwrap(), b"onetwo");
    }

    #[test]
    fn what_is_removed_a_link_or_no_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut part = Part::create(&Target::new(&path), false).unwrap();
        std::fs::remove_file(&path).unwrap();
        let err = part.write_all(b"block").unwrap_err().to_string();
        assert!(err.ends_with("/a was removed"), "{err}");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        let err = Part::create(&Target::new(&path), false).err().unwrap().to_string();
        assert!(err.contains("symbolic link"), "{err}");
        let err = Part::create(&Target::new(dir.path()), false).err().unwrap();
        assert!(format!("{err:#}").contains("cannot create"), "{err:#}");
        let err = Part::create(&Target::new(Path::new("/dev/full")), false).err().unwrap();
        assert!(err.to_string().contains("no plain file"), "{err}");
    }
}
