//! The host name of a process, where it is not the node's: by default a pod's is the pod's own name. The
//! last of all sources: who may make a UTS namespace, as any user may in a user namespace, chooses it.
//!
//! It is asked of the kernel from inside of that namespace, by a thread that ends then. Nothing of the
//! pod's file system is touched: its `/etc/hostname` could be a link, a pipe, or hang.

use std::{ffi::CStr, fs, io, mem::MaybeUninit, path::Path, thread};

use anyhow::{Context as _, Result, bail};
use log::debug;

use super::{enter::move_into, procfs::open};

/// `__NEW_UTS_LEN`.
const MAX: usize = 64;

/// The host name of this process, if it has one of its own that is fit to be shown.
pub fn own(root: &Path, pid: u32) -> Option<String> {
    let link = |pid: u32| fs::read_link(root.join(format!("proc/{pid}/ns/uts"))).ok();
    if link(pid)? == link(1)? {
        return None;
    }
    let read = thread::scope(|scope| {
        let helper = thread::Builder::new().name("uts".to_owned());
        let helper = helper.spawn_scoped(scope, || inside(root, pid))?;
        helper.join().unwrap_or_else(|_| bail!("the uts thread died"))
    });
    let name = read.map_err(|error| debug!("the host name of process {pid}: {error:#}")).ok()?;
    let of_node = uname().ok();
    Some(name).filter(|name| is_fit(name) && of_node.as_ref() != Some(name))
}

/// Moves the calling thread into the process's UTS namespace for good.
fn inside(root: &Path, pid: u32) -> Result<String> {
    let path = root.join(format!("proc/{pid}/ns/uts"));
    let file = open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    move_into(&file, &path, libc::CLONE_NEWUTS)?;
    uname().context("cannot ask for the host name")
}

fn uname() -> io::Result<String> {
    let mut names = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: there is room for one utsname, which the kernel fills.
    if unsafe { libc::uname(names.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded.
    let names = unsafe { names.assume_init() };
    // SAFETY: the kernel ends the name with a zero byte inside of the array.
    let name = unsafe { CStr::from_ptr(names.nodename.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}

/// Whether it is a name by RFC 1123, and tells anything.
fn is_fit(name: &str) -> bool {
    let is_known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let is_name = !name.is_empty() && name.len() <= MAX && name.bytes().all(is_known);
    let ends = [name.bytes().next(), name.bytes().last()];
    is_name && ends.iter().flatten().all(u8::is_ascii_alphanumeric) && name != "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_fit() {
        for fit in ["web-0", "web-7d4f9c-x2x5k", "node.example", "WEB", "7", &"x".repeat(MAX)] {
            assert!(is_fit(fit), "{fit}");
        }
        let long = "x".repeat(MAX + 1);
        for odd in ["", "(none)", "localhost", "a b", "a/b", "\u{1b}[2J", "-a", "a.", "grüß", &long]
        {
            assert!(!is_fit(odd), "{odd}");
        }
    }

    #[test]
    fn the_node_and_who_is_gone() {
        assert_eq!(own(Path::new("/"), 1), None);
        assert_eq!(own(Path::new("/"), u32::MAX), None, "no such process");
        assert!(uname().is_ok_and(|name| !name.is_empty()));
    }
}
