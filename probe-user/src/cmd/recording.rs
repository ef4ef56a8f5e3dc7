//! What the commands that can write a recording have in common.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};

use super::{redact_key, screen::Screen};
use crate::{
    cli::Recording,
    output::sanitize,
    recording::recorder::{Options, Recorder},
};

/// Opens the recording, if one is asked for.
///
/// # Errors
/// When it cannot be written, or there is only said how.
pub fn begin(target: Option<&Path>, how: &Recording) -> Result<Option<Recorder>> {
    let Some(path) = target else {
        if *how != Recording::default() {
            bail!(
                "--max-size, --rotate, --snaplen, --compress, --redact and --redact-key need --record \
                 FILE"
            );
        }
        return Ok(None);
    };
    let options = Options {
        max_size: how.max_size,
        rotate: how.rotate,
        snaplen: how.snaplen.unwrap_or(0),
        compress: how.compress,
        redact: secret(path, how)?,
    };
    Recorder::create(path, options, name()).map(Some)
}

/// With what is redacted. Without a file for it, it is drawn anew for each recording: one name becomes
/// another in each.
fn secret(target: &Path, how: &Recording) -> Result<Option<Vec<u8>>> {
    let Some(path) = &how.redact_key else {
        return how.redact.then(redact_key::random).transpose();
    };
    if path == target {
        bail!("{} cannot be both the recording and its key", path.display());
    }
    let (secret, is_new) = redact_key::provide(path)?;
    if is_new {
        // Standard output may be the recording.
        Screen::new().note(&format!(
            "stallprobe: {} is a new key: redact other nodes' recordings with it, too, and give it to \
             nobody who gets these",
            sanitize::text(&path.display().to_string())
        ));
    }
    Ok(Some(secret))
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{collections::BTreeSet, fs};

    use super::*;
    use crate::{correlate, event::Body, pipeline::Pipeline, recording::chain, testing::*};

    /// What became of the node's name.
    fn redacted(path: &Path, how: &Recording) -> String {
        let mut run = Run::new();
        run.until(2000);
        let mut recorder = begin(Some(path), how).unwrap().unwrap();
        let mut pipeline = Pipeline::new(correlate::Options::default());
        for event in run.played() {
            pipeline.take(event);
            recorder.take(event, &pipeline).unwrap();
        }
        recorder.end("it was over", &pipeline).unwrap();
        let input = crate::recording::open::open(path, None).unwrap();
        let mut chains = chain::Chain::all(vec![(path.to_owned(), input)]).unwrap();
        while let Some(next) = chains[0].next().unwrap() {
            if let chain::Next::Event(event) = next
                && let Body::Node(node) = event.body
            {
                return node.name;
            }
        }
        String::new()
    }

    #[test]
    fn one_key_makes_the_same_names_and_stays_out_of_recordings() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let key = |name: &str| Recording { redact_key: Some(at(name)), ..Recording::default() };
        let alone = Recording { redact: true, ..Recording::default() };
        let both = Recording { redact: true, ..key("k") };
        let plain = redacted(&at("plain"), &Recording::default());
        let first = redacted(&at("a"), &key("k"));
        assert!(!plain.is_empty() && !first.is_empty() && first != plain, "{plain} {first}");
        assert_eq!(redacted(&at("b"), &both), first);
        let others =
            [redacted(&at("c"), &key("l")), redacted(&at("d"), &alone), redacted(&at("e"), &alone)];
        assert_eq!(others.iter().chain([&first, &plain]).collect::<BTreeSet<_>>().len(), 5);
        let (secret, _) = redact_key::provide(&at("k")).unwrap();
        let digits = fs::read_to_string(at("k")).unwrap();
        let bytes = fs::read(at("a")).unwrap();
        for part in [secret.as_slice(), digits.trim_end().as_bytes()] {
            assert!(!bytes.windows(part.len()).any(|window| window == part));
        }
    }

    #[test]
    fn a_key_is_no_recording_and_needs_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let how = Recording { redact_key: Some(path.clone()), ..Recording::default() };
        let said = |target| begin(target, &how).err().unwrap().to_string();
        assert!(said(None).contains("need --record FILE"));
        assert!(said(Some(path.as_path())).contains("both the recording and its key"));
        assert!(!path.exists());
    }
}
