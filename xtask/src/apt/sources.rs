//! Reads apt's own configuration: which mirrors this machine uses.
//!
//! Both formats of sources.list(5): one line per entry (`*.list`) and deb822 (`*.sources`).
use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// One mirror and what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Base address without a trailing slash.
    pub uri: String,
    pub suites: Vec<String>,
    pub components: Vec<String>,
}

/// Everything under `etc` (normally `/etc/apt`), in apt's order. `mirror+file:` lists are followed.
pub fn read(etc: &Path) -> Result<Vec<Source>> {
    let mut files = vec![etc.join("sources.list")];
    let parts = etc.join("sources.list.d");
    if parts.is_dir() {
        let mut more: Vec<PathBuf> = fs::read_dir(&parts)
            .with_context(|| format!("cannot list {}", parts.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        more.sort();
        files.append(&mut more);
    }
    let mut sources = Vec::new();
    for path in files.iter().filter(|path| path.is_file()) {
        let parse: fn(&str) -> Vec<Source> = match path.extension().and_then(|e| e.to_str()) {
            Some("list") => parse_list,
            Some("sources") => parse_deb822,
            _ => continue,
        };
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        sources.extend(parse(&text).into_iter().flat_map(expand_mirror_list));
    }
    Ok(sources)
}

/// `deb [options] URI SUITE COMPONENT...`
pub fn parse_list(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|r| r.starts_with([' ', '\t'])) else {
            continue;
        };
        let mut rest = rest.trim_start();
        if rest.starts_with('[') {
            let Some((_, after)) = rest.split_once(']') else {
                continue;
            };
            rest = after;
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            sources.push(Source {
                uri: trim_uri(&uri),
                suites: vec![suite],
                components: words.collect(),
            });
        }
    }
    sources
}

/// Stanzas of `Types:`, `URIs:`, `Suites:`, `Components:`, `Enabled:`.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in super::index::stanzas(text) {
        let words = |name: &str| -> Vec<String> {
            let value = stanza.field(name).unwrap_or_default();
            value.split_whitespace().map(str::to_owned).collect()
        };
        let off = ["no", "false", "without", "off", "disable"];
        let enabled = stanza.field("Enabled").unwrap_or_default();
        if off.contains(&enabled.as_str()) || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        for uri in words("URIs") {
            sources.push(Source {
                uri: trim_uri(&uri),
                suites: words("Suites"),
                components: words("Components"),
            });
        }
    }
    sources
}

fn trim_uri(uri: &str) -> String {
    uri.trim_end_matches('/').to_owned()
}

/// `mirror+file:/path` names a file with one address a line (apt-transport-mirror(1)), as Debian's
/// cloud images use it.
fn expand_mirror_list(source: Source) -> Vec<Source> {
    let Some(path) = source.uri.strip_prefix("mirror+file:") else {
        return vec![source];
    };
    let path = format!("/{}", path.trim_start_matches('/'));
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|uri| !uri.starts_with('#'))
        .map(|uri| Source { uri: trim_uri(uri), ..source.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suites: &[&str], components: &[&str]) -> Source {
        let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Source { uri: uri.to_owned(), suites: own(suites), components: own(components) }
    }

    #[test]
    fn one_line_format() {
        let text = "# comment\n\
            deb http://mirror.example/debian/ bookworm main contrib # why\n\
            deb-src http://mirror.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/x] http://mirror.example/sec bookworm-security main\n\
            deb [broken http://mirror.example/x y z\n\
            debug http://mirror.example/x y z\n\
            deb http://mirror.example/flat\n";
        assert_eq!(
            parse_list(text),
            [
                source("http://mirror.example/debian", &["bookworm"], &["main", "contrib"]),
                source("http://mirror.example/sec", &["bookworm-security"], &["main"]),
            ]
        );
    }

    #[test]
    fn deb822_format() {
        let text = "Types: deb deb-src\n\
            # a comment\n\
            URIs: http://mirror.example/debian/\n http://second.example/debian\n\
            Suites: bookworm bookworm-updates\n\
            Components: main\n\
            Signed-By:\n -----BEGIN PGP-----\n .\n xyz\n\
            \n\
            Types: deb\nURIs: http://off.example/\nSuites: x\nComponents: main\nEnabled: no\n\
            \n\
            Types: deb-src\nURIs: http://src.example/\nSuites: x\nComponents: main\n";
        let suites = ["bookworm", "bookworm-updates"];
        assert_eq!(
            parse_deb822(text),
            [
                source("http://mirror.example/debian", &suites, &["main"]),
                source("http://second.example/debian", &suites, &["main"]),
            ]
        );
    }
}
