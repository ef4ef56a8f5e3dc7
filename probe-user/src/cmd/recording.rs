//! What the commands that can write a recording have in common.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};

use super::screen::Screen;
use crate::{
    cli::Recording,
    recording::recorder::{Options, Recorder},
};

/// Opens the recording, if one is asked for.
///
/// # Errors
/// When it cannot be written, or there is only said how.
pub fn begin(target: Option<&Path>, how: &Recording) -> Result<Option<Recorder>> {
    let Some(path) = target else {
        if *how != Recording::default() {
            bail!("--max-size, --rotate, --snaplen, --compress and --redact need --record FILE");
        }
        return Ok(None);
    };
    let options = Options {
        max_size: how.max_size,
        rotate: how.rotate,
        snaplen: how.snaplen.unwrap_or(0),
        compress: how.compress,
        redact: how.redact.then(secret).transpose()?,
    };
    Recorder::create(path, options, name()).map(Some)
}

/// Drawn anew for each recording: who has two of them cannot tell what is the same in both.
fn secret() -> Result<Vec<u8>> {
    let path = "/dev/urandom";
    let mut secret = vec![0; 32];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut secret))
        .with_context(|| format!("cannot read {path}"))?;
    Ok(secret)
}

/// Bytes of each packet to ask the kernel for: all there are, unless it is said, and none where nothing is
/// recorded.
pub fn snaplen(target: Option<&Path>, how: &Recording) -> u32 {
    target.map_or(0, |_| how.snaplen.unwrap_or(u32::from(u16::MAX)))
}

/// The screen beside a recording: what goes to standard output must not be mixed with findings.
pub fn screen(target: Option<&Path>) -> Screen {
    let mut screen = Screen::new();
    screen.quiet = target == Some(Path::new("-"));
    screen
}

/// A name that no other recording has: the moment, and the process.
fn name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", now.as_nanos(), std::process::id())
}
