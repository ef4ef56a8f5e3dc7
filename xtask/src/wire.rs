//! What a machine's two network cards are connected to: nothing outside of QEMU, or another machine of
//! this run.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};

/// Longest path of a socket with its closing zero (`sockaddr_un`, include/uapi/linux/un.h).
const PATH_MAX: usize = 108;

/// Wires made by this process.
static WIRES: AtomicU32 = AtomicU32::new(0);

pub enum Wire {
    /// eth0 and eth1 are on one hub, with nothing else on it: what leaves by the one comes in at the
    /// other, and never gets any further.
    Hub,
    /// eth0 is connected with another machine's; eth1 with nothing.
    Between(End),
}

/// One end: the sockets to read from and to write to. They pass datagrams on, so that either machine may
/// start first, or again. The number makes the card's address.
pub struct End {
    own: PathBuf,
    other: PathBuf,
    number: u8,
}

/// A folder that only this user enters, for the sockets of a wire; gone when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn make() -> Result<Self> {
        let number = WIRES.fetch_add(1, Ordering::Relaxed);
        let name = format!("stallprobe-wire-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    /// The two ends of the wire.
    pub fn ends(&self) -> Result<[Wire; 2]> {
        let [a, b] = ["a", "b"].map(|name| self.0.join(name));
        let length = a.as_os_str().len();
        ensure!(length < PATH_MAX, "{} is too long for a socket's path", a.display());
        let end = |own: &Path, other: &Path, number| {
            Wire::Between(End { own: own.to_owned(), other: other.to_owned(), number })
        };
        Ok([end(&a, &b, 1), end(&b, &a, 2)])
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

impl Wire {
    /// For QEMU. Without `romfile=` it asks for a boot loader of Debian's ipxe-qemu.
    pub fn cards(&self) -> Vec<String> {
        let hub = |card: &str| format!("hubport,id={card},hubid=0");
        let card = |card: &str, more: &str| format!("virtio-net-pci,netdev={card},romfile={more}");
        let (first, more) = match self {
            Self::Hub => (hub("card0"), String::new()),
            Self::Between(End { own, other, number }) => {
                let [own, other] = [own, other].map(|path| quoted(path));
                let sockets = format!("local.type=unix,local.path={own},remote.type=unix");
                let first = format!("dgram,id=card0,{sockets},remote.path={other}");
                (first, format!(",mac=52:54:00:00:00:{number:02x}"))
            }
        };
        let words = [
            ["-netdev", &first, "-device", &card("card0", &more)],
            ["-netdev", &hub("card1"), "-device", &card("card1", "")],
        ];
        words.concat().into_iter().map(str::to_owned).collect()
    }
}

/// A comma ends a value in QEMU's options, two are one.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn each_end_writes_where_the_other_reads() {
        let folder = Folder::make().unwrap();
        assert_eq!(folder.0.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let [a, b] = folder.ends().unwrap().map(|end| end.cards().join(" "));
        let path = |name| folder.0.join(name).display().to_string();
        let (to_a, to_b) = (path("a"), path("b"));
        assert!(
            a.contains(&format!("local.path={to_a},"))
                && a.contains(&format!("remote.path={to_b} "))
        );
        assert!(
            b.contains(&format!("local.path={to_b},"))
                && b.contains(&format!("remote.path={to_a} "))
        );
        assert!(a.contains("mac=52:54:00:00:00:01") && b.contains("mac=52:54:00:00:00:02"));
        let gone = folder.0.clone();
        drop(folder);
        assert!(!gone.exists());
        assert!(!Wire::Hub.cards().join(" ").contains("path"));
    }
}
