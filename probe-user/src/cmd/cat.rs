//! `stallprobe cat`: a file to standard output. The image has no other program, and `kubectl cp` needs
//! a tar in it.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use super::screen::reader_gone;
use crate::{cli::Cat, output::sanitize};

/// Copies the file as it is.
///
/// # Errors
/// When it is no regular file, standard output is a terminal, or one of them fails.
pub fn run(args: &Cat) -> Result<()> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        bail!(
            "a recording would garble the terminal: send it to a file or a program (in kubectl exec, \
             leave out -t)"
        );
    }
    match copy(&args.file, &mut stdout.lock()) {
        Err(err) if reader_gone(&err) => Ok(()),
        result => result,
    }
}

fn copy(path: &Path, out: &mut impl Write) -> Result<()> {
    let name = sanitize::text(&path.to_string_lossy());
    let mut file = open(path, &name)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match io::Read::read(&mut file, &mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err).with_context(|| format!("cannot read {name}")),
        };
        out.write_all(buffer.get(..length).unwrap_or_default())
            .context("cannot write to standard output")?;
    }
    out.flush().context("cannot write to standard output")
}

/// Opens without waiting for a writer, as a named pipe would, and without taking a terminal.
fn open(path: &Path, name: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path).with_context(|| format!("cannot open {name}"))?;
    let kind = file.metadata().with_context(|| format!("cannot look at {name}"))?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let what = match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "no regular file",
    };
    bail!("{name} is {what}: only regular files are copied")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{ffi::CString, fs};

    use super::*;

    fn refused(path: &Path) -> String {
        let mut out = Vec::new();
        let error = copy(path, &mut out).unwrap_err();
        assert!(out.is_empty());
        format!("{error:#}")
    }

    #[test]
    fn every_byte_of_a_file_comes_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.pcapng");
        let bytes: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let mut out = Vec::new();
        copy(&path, &mut out).unwrap();
        assert_eq!(out, bytes);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = refused(folder.path());
        assert!(refusal.contains("is a folder"), "{refusal}");
        let refusal = refused(Path::new("/dev/zero"));
        assert!(refusal.contains("is a device"), "{refusal}");
        let pipe = folder.path().join("pipe\x1b[2J");
        let name = CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: mkfifo reads the string, which outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let refusal = refused(&pipe);
        assert!(refusal.contains("is a named pipe") && !refusal.contains('\x1b'), "{refusal}");
        let refusal = refused(&folder.path().join("gone"));
        assert!(refusal.contains("cannot open") && refusal.contains("gone"), "{refusal}");
    }

    #[test]
    fn a_reader_that_went_away_is_told_apart() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "x").unwrap();
        assert!(reader_gone(&copy(file.path(), &mut Gone).unwrap_err()));
    }
}
