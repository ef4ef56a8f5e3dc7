//! The key of `--redact-key`: 32 random bytes in a file, as 64 hexadecimal digits in a line of their own.
//! Recordings of several nodes that are redacted with one key have the same names for the same things.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail};

const BYTES: usize = 32;
/// More is not read of a file that is no key.
const READ_MAX: u64 = 1024;

/// The key in the file, or a new one, which is then there; and whether it is new.
///
/// # Errors
/// When there is something else in the file, or it cannot be read or made.
pub fn provide(path: &Path) -> Result<(Vec<u8>, bool)> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(file) => Ok((make(file, path)?, true)),
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok((read(path)?, false)),
        Err(err) => {
            Err(err).with_context(|| format!("cannot make the redaction key {}", path.display()))
        }
    }
}

fn make(mut file: File, path: &Path) -> Result<Vec<u8>> {
    let secret = random()?;
    let written = file.write_all(text(&secret).as_bytes()).and_then(|()| file.sync_all());
    if let Err(err) = written {
        // Half a key would be in the way of the next run.
        let _removed = fs::remove_file(path);
        let path = path.display();
        return Err(err).with_context(|| format!("cannot write the redaction key {path}"));
    }
    Ok(secret)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(READ_MAX).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read the redaction key {}", path.display()))?;
    match parse(&bytes) {
        Some(secret) => Ok(secret),
        None => bail!(
            "{} is no redaction key, which has {} hexadecimal digits and nothing else; name a file \
             that is not there, and it is made",
            path.display(),
            2 * BYTES
        ),
    }
}

fn text(secret: &[u8]) -> String {
    let mut text = String::new();
    for byte in secret {
        // Writing to a String cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text.push('\n');
    text
}

fn parse(bytes: &[u8]) -> Option<Vec<u8>> {
    let digits = bytes.trim_ascii_end();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = digits.chunks_exact(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.last()?)?)).collect()
}

/// # Errors
/// When the kernel gives none.
pub fn random() -> Result<Vec<u8>> {
    let path = "/dev/urandom";
    let mut secret = vec![0; BYTES];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut secret))
        .with_context(|| format!("cannot read {path}"))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let (secret, is_new) = provide(&path).unwrap();
        assert!(is_new && secret.len() == BYTES);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(provide(&path).unwrap(), (secret.clone(), false));
        let other = dir.path().join("other");
        assert_ne!(provide(&other).unwrap().0, secret);
        // As people copy it.
        let digits = fs::read_to_string(&path).unwrap().to_uppercase();
        fs::write(&other, digits.trim_end()).unwrap();
        assert_eq!(provide(&other).unwrap(), (secret, false));
    }

    #[test]
    fn what_is_no_key_is_said_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for bad in
            ["", "abc\n", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66), &"a ".repeat(32)]
        {
            fs::write(&path, bad).unwrap();
            let said = provide(&path).unwrap_err().to_string();
            assert!(said.contains("is no redaction key"), "{bad}: {said}");
            assert_eq!(fs::read_to_string(&path).unwrap(), *bad);
        }
        let said = format!("{:#}", provide(dir.path()).unwrap_err());
        assert!(said.contains("cannot read the redaction key"), "{said}");
        let said = format!("{:#}", provide(&dir.path().join("none/key")).unwrap_err());
        assert!(said.contains("cannot make the redaction key"), "{said}");
    }
}
