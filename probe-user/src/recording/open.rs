//! Opens what may be a recording: a file or standard input, compressed or not, whole or still being
//! written.

use std::{
    fs::File,
    io::{self, Chain, Cursor, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use zstd::stream::read::Decoder;

/// With which a zstd frame begins (RFC 8878 3.1.1), and how many bytes of history one may ask for, as a
/// power of two: zstd's own limit for streams. More would be memory without bound.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const WINDOW: u32 = 27;

/// How often a file is looked at that has no more bytes yet.
const AGAIN: Duration = Duration::from_millis(100);

/// Bytes of a recording.
pub type Input = Box<dyn Read>;

/// Opens a file, or standard input for `-`. With `stop` it is read on as it grows, until that is true.
///
/// # Errors
/// When it cannot be read.
pub fn open(path: &Path, stop: Option<&Arc<AtomicBool>>) -> Result<Input> {
    let name = || format!("cannot read {}", path.display());
    let input: Input = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).with_context(name)?;
        if file.metadata().with_context(name)?.is_dir() {
            bail!("{} is a directory", path.display());
        }
        Box::new(file)
    };
    let input: Input = match stop {
        Some(stop) => Box::new(Growing { input, stop: Arc::clone(stop) }),
        None => input,
    };
    decompressed(input).with_context(name)
}

fn decompressed(mut input: Input) -> io::Result<Input> {
    let mut first = Vec::new();
    input.by_ref().take(ZSTD.len() as u64).read_to_end(&mut first)?;
    let is_zstd = first == ZSTD;
    let whole: Chain<Cursor<Vec<u8>>, Input> = Cursor::new(first).chain(input);
    if !is_zstd {
        return Ok(Box::new(whole));
    }
    let mut decoder = Decoder::new(whole)?;
    decoder.window_log_max(WINDOW)?;
    Ok(Box::new(CutShort(decoder)))
}

/// A file that is being written: at its end, more is waited for.
struct Growing {
    input: Input,
    stop: Arc<AtomicBool>,
}

impl Read for Growing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.input.read(buffer)?;
            if read > 0 || buffer.is_empty() || self.stop.load(Ordering::Relaxed) {
                return Ok(read);
            }
            thread::sleep(AGAIN);
        }
    }
}

/// A frame that is not whole is the end of the file: what was flushed has come out of it.
struct CutShort<R>(R);

impl<R: Read> Read for CutShort<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::io::Write as _;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decompressed(Box::new(Cursor::new(bytes.to_vec()))).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn plain_compressed_and_cut() {
        assert_eq!(read(b""), b"");
        assert_eq!(read(b"ab"), b"ab");
        assert_eq!(read(b"plain bytes"), b"plain bytes");
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.write_all(b"first").unwrap();
        encoder.flush().unwrap();
        let flushed = encoder.get_ref().len();
        encoder.write_all(b" second").unwrap();
        let whole = encoder.finish().unwrap();
        assert_eq!(read(&whole), b"first second");
        for cut in flushed..whole.len() {
            let read = read(&whole[..cut]);
            assert!(b"first second".starts_with(&read) && read.len() >= 5, "{cut}: {read:?}");
        }
    }

    #[test]
    fn a_growing_file_is_waited_for_until_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one.").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut input = open(&path, Some(&stop)).unwrap();
        let mut four = [0; 4];
        input.read_exact(&mut four).unwrap();
        let reader = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut more = open(&path, Some(&stop)).unwrap();
                let mut eight = [0; 8];
                more.read_exact(&mut eight).unwrap();
                stop.store(true, Ordering::Relaxed);
                let mut rest = Vec::new();
                more.read_to_end(&mut rest).unwrap();
                (eight, rest)
            }
        });
        file.write_all(b"two.").unwrap();
        assert_eq!(reader.join().unwrap(), (*b"one.two.", Vec::new()));
    }
}
