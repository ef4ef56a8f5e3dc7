//! Debian control files: stanzas of `Field: value` lines, as in `Packages` indexes.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result};

/// One paragraph of a control file.
pub struct Stanza<'a> {
    text: &'a str,
}

/// The paragraphs of a control file, which are separated by empty lines.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    text.split("\n\n").map(|text| Stanza { text }).filter(|stanza| !stanza.text.trim().is_empty())
}

impl Stanza<'_> {
    /// A field's value, continuation lines joined by newlines. Names are case-insensitive.
    pub fn field(&self, name: &str) -> Option<String> {
        let mut lines = self.text.lines().filter(|line| !line.starts_with('#'));
        let first = lines.find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })?;
        let mut value = first.to_owned();
        for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
            value.push('\n');
            value.push_str(line.trim());
        }
        Some(value)
    }
}

/// A package as an index describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// Path of the .deb below the archive's base address.
    pub path: String,
    pub sha256: String,
}

/// The packages whose name and version `wanted` accepts, in the index's order.
pub fn find(index: &str, wanted: impl Fn(&str, &str) -> bool) -> Vec<Package> {
    stanzas(index)
        .filter_map(|stanza| {
            let name = stanza.field("Package")?;
            let version = stanza.field("Version")?;
            if !wanted(&name, &version) {
                return None;
            }
            package(&stanza)
        })
        .collect()
}

/// These packages and all that they depend on, but for those in `without`. Of alternatives the first
/// that there is; a name that only others provide is left out.
pub fn closure(index: &str, names: &[&str], without: &[&str]) -> Result<Vec<Package>> {
    let all: HashMap<String, Stanza<'_>> =
        stanzas(index).filter_map(|stanza| Some((stanza.field("Package")?, stanza))).collect();
    let mut chosen = BTreeMap::new();
    let mut waiting: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    while let Some(name) = waiting.pop() {
        if chosen.contains_key(&name) || without.contains(&name.as_str()) {
            continue;
        }
        let stanza = all.get(&name).with_context(|| format!("there is no package {name}"))?;
        let package = package(stanza).with_context(|| format!("package {name} has no file"))?;
        chosen.insert(name, package);
        for field in ["Pre-Depends", "Depends"] {
            for needed in stanza.field(field).unwrap_or_default().split(',') {
                let mut alternatives = needed.split('|').map(package_name);
                waiting
                    .extend(alternatives.find(|name| all.contains_key(*name)).map(str::to_owned));
            }
        }
    }
    Ok(chosen.into_values().collect())
}

/// `libc6 (>= 2.38)` or `perl:any` → the name alone.
fn package_name(dependency: &str) -> &str {
    dependency.trim().split([' ', '(', ':']).next().unwrap_or_default()
}

fn package(stanza: &Stanza<'_>) -> Option<Package> {
    Some(Package {
        name: stanza.field("Package")?,
        version: stanza.field("Version")?,
        path: stanza.field("Filename")?,
        sha256: stanza.field("SHA256")?,
    })
}

/// The numbers in a version, for telling the newer of two versions of one package: 6.18.15 is newer
/// than 6.18.9. (Not the whole of deb-version(7), which pinned series do not need.)
pub fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const INDEX: &str = "Package: rust-src\nSource: rustc\nVersion: 1.94.1+dfsg1-1\n\
        Filename: pool/main/r/rustc/rust-src_1.94.1.deb\nSHA256: aa\n\n\
        Package: rust-src\nVersion: 1.95.0+dfsg1-2\nDescription: sources\n of the compiler\n\
        Filename: pool/main/r/rustc/rust-src_1.95.0.deb\nSHA256: bb\n\n\
        Package: rust-src-extra\nVersion: 1.95.0+dfsg1-2\nFilename: x\nSHA256: cc\n";

    #[test]
    fn finds_exactly_the_version() {
        let found =
            find(INDEX, |name, version| name == "rust-src" && version.starts_with("1.95.0+dfsg"));
        assert_eq!(
            found,
            [Package {
                name: "rust-src".to_owned(),
                version: "1.95.0+dfsg1-2".to_owned(),
                path: "pool/main/r/rustc/rust-src_1.95.0.deb".to_owned(),
                sha256: "bb".to_owned(),
            }]
        );
    }

    #[test]
    fn a_package_comes_with_what_it_needs() {
        let stanza = |name: &str, needs: &str| {
            format!(
                "Package: {name}\nVersion: 1\nDepends: {needs}\nFilename: {name}.deb\nSHA256: a\n\n"
            )
        };
        let index = [
            stanza("ip", "libc6 (>= 2.38), gone | libcap2 (>= 1:2), virtual"),
            stanza("libc6", "libgcc-s1, debconf"),
            stanza("libgcc-s1", "libc6 (>= 2.35)"),
            stanza("libcap2", "libc6:any"),
            stanza("debconf", "perl"),
            stanza("other", ""),
        ]
        .concat();
        let names = |packages: Vec<Package>| -> Vec<String> {
            packages.into_iter().map(|package| package.name).collect()
        };
        let found = names(closure(&index, &["ip"], &["debconf"]).unwrap());
        assert_eq!(found, ["ip", "libc6", "libcap2", "libgcc-s1"]);
        assert!(closure(&index, &["gone"], &[]).is_err());
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("6.18.15-1~bpo13+1") > numbers("6.18.9-1~bpo13+1"));
        assert!(numbers("6.1.192-2") > numbers("6.1.192-1"));
    }

    #[test]
    fn a_field_is_not_a_prefix_of_another() {
        let stanza = stanzas("Packages: x\nPackage: y\n").next().unwrap();
        assert_eq!(stanza.field("Package").as_deref(), Some("y"));
        assert_eq!(stanza.field("Pack"), None);
    }

    #[test]
    fn continuation_lines_belong_to_their_field() {
        let stanza = stanzas("URIs: a\n b\nSuites:\n c\n").next().unwrap();
        assert_eq!(stanza.field("uris").as_deref(), Some("a\nb"));
        assert_eq!(stanza.field("Suites").as_deref(), Some("\nc"));
    }
}
