//! Giving up, once everything is attached, the rights that are not used later: a program that reads
//! what others wrote needs no right to write, load modules or become somebody else.
//!
//! Sources: capabilities(7); `security/commoncap.c` (`cap_prctl_drop`, `cap_capset`).

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::rights::Capability;

/// What is used while watching: to attach hooks that come later, to enter network namespaces, to look
/// at other users' processes, and to read kernel symbols.
pub const KEPT: [Capability; 4] =
    [Capability::DacReadSearch, Capability::SysPtrace, Capability::SysAdmin, Capability::Syslog];
/// Kept where CAP_SYS_ADMIN is not there, which contains them (`bpf_capable`, `perfmon_capable` in
/// include/linux/capability.h).
const WITHOUT_SYS_ADMIN: [Capability; 2] = [Capability::Perfmon, Capability::Bpf];
/// Kept where CAP_DAC_READ_SEARCH is not there: most container runtimes give this one.
const WITHOUT_READ_SEARCH: [Capability; 1] = [Capability::DacOverride];

/// `_LINUX_CAPABILITY_VERSION_3` (include/uapi/linux/capability.h): two words of 32 bits each.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    /// 0 for the calling thread.
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up everything but [`KEPT`], for good, and gives the names of what remains. Threads that are
/// started later have as little; the caller must be the only thread.
///
/// # Errors
/// When there are other threads, or the kernel refuses.
pub fn give_up() -> Result<Vec<&'static str>> {
    let path = Path::new("/proc/self/task");
    let threads =
        fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?.count();
    ensure!(threads == 1, "{threads} threads are running, each of which has its own rights");

    let now = capget()?;
    let permitted = u64::from(now[0].permitted) | u64::from(now[1].permitted) << 32;
    let keep = kept_of(permitted);
    limit_bounding_set(keep, permitted)?;
    let word = |bits: u64| Word { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    capset([word(keep), word(keep >> 32)])?;
    // Nothing is started anyway; should it be, it gets no more than this process has.
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context("cannot set no_new_privs")?;
    let all = KEPT.into_iter().chain(WITHOUT_SYS_ADMIN).chain(WITHOUT_READ_SEARCH);
    Ok(all.filter(|&c| keep & bit(c) != 0).map(Capability::name).collect())
}

/// What of these rights is kept.
fn kept_of(permitted: u64) -> u64 {
    let bits = |list: &[Capability]| list.iter().fold(0, |bits, &c| bits | bit(c));
    let mut keep = bits(&KEPT);
    if permitted & bit(Capability::SysAdmin) == 0 {
        keep |= bits(&WITHOUT_SYS_ADMIN);
    }
    if permitted & bit(Capability::DacReadSearch) == 0 {
        keep |= bits(&WITHOUT_READ_SEARCH);
    }
    keep & permitted
}

/// Takes from the bounding set what is not kept. Only CAP_SETPCAP may; without it no_new_privs does as
/// well.
fn limit_bounding_set(keep: u64, permitted: u64) -> Result<()> {
    const SETPCAP: u32 = 8;
    if permitted >> SETPCAP & 1 == 0 {
        return Ok(());
    }
    for number in 0..u64::BITS {
        if keep >> number & 1 == 1 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number.into()) {
            Ok(()) => {}
            // The kernel knows no capability of this number or above.
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => break,
            Err(err) => {
                return Err(err).with_context(|| {
                    format!("cannot drop capability {number} from the bounding set")
                });
            }
        }
    }
    Ok(())
}

fn bit(capability: Capability) -> u64 {
    1 << (capability as u8)
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the two options that are used here take a number and no pointer.
    match unsafe { libc::prctl(option, argument, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn capget() -> Result<[Word; 2]> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut words = [Word::default(); 2];
    // SAFETY: the kernel writes two words for this version, and the header.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    ensure!(result == 0, "cannot read capabilities: {}", io::Error::last_os_error());
    Ok(words)
}

fn capset(words: [Word; 2]) -> Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    // SAFETY: the kernel reads two words for this version, and the header.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    ensure!(result == 0, "cannot give up capabilities: {}", io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!((size_of::<Header>(), size_of::<[Word; 2]>()), (8, 24));
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap();
        let words = capget().unwrap();
        let bits = u64::from(words[0].permitted) | u64::from(words[1].permitted) << 32;
        assert_eq!(u64::from_str_radix(line, 16).unwrap(), bits);
    }

    #[test]
    fn what_is_kept_is_what_the_manifests_give() {
        let manifest = include_str!("../../../deploy/daemonset.yaml");
        let list = manifest.lines().find_map(|line| line.trim().strip_prefix("add: ["));
        let list = list.unwrap().trim_end_matches(']');
        let mut given: Vec<String> =
            list.split(',').map(|name| format!("CAP_{}", name.trim().trim_matches('"'))).collect();
        // For the limit that is raised before anything is loaded.
        given.retain(|name| name != Capability::SysResource.name());
        let mut kept = KEPT.map(Capability::name);
        kept.sort_unstable();
        given.sort_unstable();
        assert_eq!(given, kept);
    }

    #[test]
    fn what_stands_for_a_missing_right_is_kept() {
        let of = |list: &[Capability]| list.iter().fold(0, |bits, &c| bits | bit(c));
        assert_eq!(kept_of(u64::MAX), of(&KEPT));
        let small = of(&[Capability::Bpf, Capability::Perfmon, Capability::DacOverride]);
        assert_eq!(kept_of(small | bit(Capability::SysResource)), small);
        assert_eq!(kept_of(0), 0);
    }

    #[test]
    fn beside_other_threads_nothing_is_given_up() {
        // The test's own thread is not the only one.
        let before = capget().unwrap()[0].permitted;
        assert!(give_up().unwrap_err().to_string().contains("threads"));
        assert_eq!(capget().unwrap()[0].permitted, before);
    }
}
