//! Debian's two archives, main and security, at the mirrors apt is configured for.
use std::path::Path;

use anyhow::{Result, ensure};

use super::sources::{self, Source};

/// Which of Debian's archives a package is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// Releases, backports, unstable.
    Main,
    /// Security updates; old versions disappear from it quickly.
    Security,
}

/// Base addresses of the archives, best first.
pub struct Mirrors {
    main: Vec<String>,
    security: Vec<String>,
}

impl Mirrors {
    pub fn from_apt() -> Result<Self> {
        let mirrors = Self::from_sources(&sources::read(Path::new("/etc/apt"))?);
        ensure!(
            !mirrors.main.is_empty(),
            "apt's configuration names no Debian mirror: add one to /etc/apt/sources.list.d"
        );
        Ok(mirrors)
    }

    fn from_sources(sources: &[Source]) -> Self {
        let mut main = Vec::new();
        let mut security = Vec::new();
        for source in sources.iter().filter(|source| is_debian(source)) {
            let is_security =
                |suite: &String| suite.ends_with("-security") || suite.ends_with("/updates");
            let archive =
                if source.suites.iter().any(is_security) { &mut security } else { &mut main };
            if !archive.contains(&source.uri) {
                archive.push(source.uri.clone());
            }
        }
        // Mirrors usually carry both archives side by side: worth a try after what is configured.
        let beside: Vec<String> = main.iter().map(|uri| format!("{uri}-security")).collect();
        for uri in beside {
            if !security.contains(&uri) {
                security.push(uri);
            }
        }
        Self { main, security }
    }

    pub fn of(&self, archive: Archive) -> &[String] {
        match archive {
            Archive::Main => &self.main,
            Archive::Security => &self.security,
        }
    }
}

/// Other vendors' sources stand in the same files: Debian's are called after its releases and have
/// the component `main`.
fn is_debian(source: &Source) -> bool {
    const RELEASES: [&str; 9] = [
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "sid",
        "stable",
        "oldstable",
        "testing",
        "unstable",
    ];
    let names_release = |suite: &String| {
        let release = suite.split(['-', '/']).next().unwrap_or_default();
        RELEASES.contains(&release)
    };
    source.uri.starts_with("http")
        && source.components.iter().any(|component| component == "main")
        && source.suites.iter().any(names_release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_apart() {
        let text = "deb http://a.example/debian bookworm main\n\
            deb http://a.example/debian bookworm-updates main\n\
            deb http://b.example/sec bookworm-security main\n\
            deb http://vendor.example/apt vendor-bookworm main\n\
            deb cdrom:[x]/ bookworm main\n";
        let mirrors = Mirrors::from_sources(&sources::parse_list(text));
        assert_eq!(mirrors.of(Archive::Main), ["http://a.example/debian"]);
        assert_eq!(
            mirrors.of(Archive::Security),
            ["http://b.example/sec", "http://a.example/debian-security"]
        );
    }
}
