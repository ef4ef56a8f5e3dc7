//! `InRelease`: a suite's signed list of its index files and their digests.
use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::index;
use crate::cache::run_quietly;

/// Debian's public keys, as the package debian-archive-keyring installs them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The signed text of an `InRelease` file whose signature is Debian's.
pub fn verify(in_release: &Path) -> Result<String> {
    ensure!(Path::new(KEYRING).is_file(), "{KEYRING} is missing: install debian-archive-keyring");
    let mut gpgv = Command::new("gpgv");
    gpgv.args(["--quiet", "--keyring", KEYRING, "--output", "-"]).arg(in_release);
    let text = run_quietly(&mut gpgv)
        .with_context(|| format!("the signature of {} is not good", in_release.display()))?;
    String::from_utf8(text).with_context(|| format!("{} is not text", in_release.display()))
}

/// The SHA-256 digest of the index `path`, such as `main/binary-amd64/Packages.xz`.
pub fn digest(release: &str, path: &str) -> Option<String> {
    let list = index::stanzas(release).find_map(|stanza| stanza.field("SHA256"))?;
    // digest, size, path
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let digest = words.next()?;
        (words.nth(1)? == path).then(|| digest.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_sha256_one() {
        let release = "Suite: stable\nMD5Sum:\n 111 10 main/binary-amd64/Packages.xz\n\
            SHA256:\n aaa 20 main/binary-amd64/Packages\n bbb 10 main/binary-amd64/Packages.xz\n";
        let found = digest(release, "main/binary-amd64/Packages.xz");
        assert_eq!(found.as_deref(), Some("bbb"));
        assert_eq!(digest(release, "main/binary-arm64/Packages.xz"), None);
        assert_eq!(digest("Suite: stable\n", "main/binary-amd64/Packages.xz"), None);
    }
}
