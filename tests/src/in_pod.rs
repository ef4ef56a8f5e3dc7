//! A container as a manifest of this repository describes it: namespaces of its own, the node's files
//! at `/host` read-only, and no more capabilities than the manifest adds.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{fs::chroot, process::CommandExt as _},
    process::Command,
    ptr,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::args::Flags;

/// The manifest that the lab's debug pod follows.
pub const DAEMONSET: &str = include_str!("../../deploy/daemonset.yaml");

/// The names in a manifest's `add: ["BPF", …]`, and its numbers in include/uapi/linux/capability.h.
const NUMBERS: &[(&str, u32)] = &[
    ("DAC_OVERRIDE", 1),
    ("DAC_READ_SEARCH", 2),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
    ("SYS_RESOURCE", 24),
    ("SYSLOG", 34),
    ("PERFMON", 38),
    ("BPF", 39),
];

/// The capabilities that a manifest's only container adds.
pub fn capabilities(manifest: &str) -> Result<Vec<&str>> {
    let mut lists = manifest.lines().filter_map(|line| line.trim().strip_prefix("add: ["));
    let list = lists.next().and_then(|rest| rest.strip_suffix(']'));
    let list = list.context("the manifest adds no capabilities")?;
    ensure!(lists.next().is_none(), "the manifest has several containers");
    Ok(list.split(',').map(|name| name.trim().trim_matches('"')).collect())
}

/// These capabilities as `/proc/PID/status` has them.
pub fn mask(names: &[&str]) -> Result<u64> {
    names.iter().try_fold(0, |bits, name| {
        let known = NUMBERS.iter().find(|(known, _)| known == name);
        let (_, number) = known.with_context(|| format!("no capability {name:?} is known here"))?;
        Ok(bits | 1 << number)
    })
}

/// `lab in-pod --root DIR --capabilities LIST -- PROGRAM ARGUMENT...`: runs the program as the first
/// process of such a container whose image is the folder. SIGINT and SIGTERM are handed on; the
/// container ends with this process.
pub fn main(flags: &Flags, command: &[String]) -> Result<u8> {
    let [program, arguments @ ..] = command else { bail!("lab in-pod … -- PROGRAM") };
    let root = flags.value("--root")?.to_owned();
    let keep = mask(&flags.value("--capabilities")?.split(',').collect::<Vec<_>>())?;
    let with_host = !flags.has("--no-host");
    let signals = block_signals()?;
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWPID;
    // SAFETY: unshare takes flags; this process has one thread.
    ensure!(unsafe { libc::unshare(namespaces) } == 0, os("cannot leave the node's namespaces"));
    let mut child = Command::new(program);
    child.args(arguments);
    // SAFETY: this process has one thread, so that between fork and exec everything may be called.
    unsafe {
        child.pre_exec(move || contain(&root, with_host, keep, &signals).map_err(io::Error::other))
    };
    let mut child = child.spawn().with_context(|| format!("cannot start {program}"))?;
    loop {
        // SAFETY: both sets are initialized; no information about the signal is asked for.
        let signal = unsafe { libc::sigwaitinfo(&signals, ptr::null_mut()) };
        if signal == libc::SIGCHLD {
            if let Some(status) = child.try_wait().context("cannot wait for the container")? {
                return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255));
            }
        } else if signal > 0 {
            let pid = i32::try_from(child.id()).context("a process id does not fit")?;
            // SAFETY: kill takes numbers; the child has not been waited for.
            ensure!(unsafe { libc::kill(pid, signal) } == 0, os("cannot hand on a signal"));
        }
    }
}

/// In the first process of the namespaces: its mounts, its root, its rights.
fn contain(root: &str, with_host: bool, keep: u64, signals: &libc::sigset_t) -> Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a number.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    ensure!(result == 0, os("cannot ask for a signal at the parent's death"));
    let host = format!("{root}/host");
    mount("none", "/", "", libc::MS_REC | libc::MS_SLAVE)?;
    if with_host {
        mount("/", &host, "", libc::MS_BIND | libc::MS_REC)?;
        mount("none", &host, "", libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY)?;
    }
    mount("proc", &format!("{root}/proc"), "proc", 0)?;
    mount("sysfs", &format!("{root}/sys"), "sysfs", libc::MS_RDONLY)?;
    chroot(root).with_context(|| format!("cannot enter {root}"))?;
    std::env::set_current_dir("/").context("cannot go to /")?;
    // What is not in the bounding set is lost with exec, also by root.
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").context("no cap_last_cap")?;
    for number in 0..=last.trim().parse::<u32>().context("cap_last_cap is no number")? {
        // SAFETY: PR_CAPBSET_DROP takes a number.
        if keep >> number & 1 == 0 && unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number) } != 0 {
            bail!(os(&format!("cannot drop capability {number}")));
        }
    }
    // SAFETY: the set is initialized; the old one is not asked for.
    let result = unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, signals, ptr::null_mut()) };
    ensure!(result == 0, os("cannot unblock signals"));
    Ok(())
}

/// `lab without-bpf -- PROGRAM ARGUMENT...`: becomes the program, for which bpf() fails with EPERM as
/// under the default seccomp profile of a container runtime.
pub fn without_bpf(command: &[String]) -> Result<u8> {
    let [program, arguments @ ..] = command else { bail!("lab without-bpf -- PROGRAM") };
    let word = |code: u32, jt, jf, k| {
        Ok::<_, anyhow::Error>(libc::sock_filter { code: u16::try_from(code)?, jt, jf, k })
    };
    // The number of the system call is the first word of struct seccomp_data.
    let filter = [
        word(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)?,
        word(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::try_from(libc::SYS_bpf)?)?,
        word(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32)?,
        word(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW)?,
    ];
    let len = u16::try_from(filter.len()).context("a filter too long")?;
    let program_of = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads the filter, which lives until the end of the call.
    let result = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program_of)
    };
    ensure!(result == 0, os("cannot set the seccomp filter"));
    Err(Command::new(program).args(arguments).exec())
        .with_context(|| format!("cannot run {program}"))
}

/// The signals that are waited for instead of being handled.
fn block_signals() -> Result<libc::sigset_t> {
    // SAFETY: sigset_t is plain numbers; sigemptyset initializes it, the others read and change it.
    unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGCHLD] {
            libc::sigaddset(&raw mut signals, signal);
        }
        let result = libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut());
        ensure!(result == 0, os("cannot block signals"));
        Ok(signals)
    }
}

fn mount(what: &str, at: &str, kind: &str, flags: libc::c_ulong) -> Result<()> {
    let [source, target, kind] = [what, at, kind].map(CString::new);
    let (source, target, kind) = (source?, target?, kind?);
    // SAFETY: the strings live until the end of the call; there are no options.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, ptr::null()) };
    ensure!(result == 0, os(&format!("cannot mount {what} at {at}")));
    Ok(())
}

/// A system call that failed just now.
fn os(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn all_manifests_give_the_same_rights() {
        let pod = include_str!("../../deploy/pod.yaml");
        let debug = include_str!("../../deploy/debug.yaml");
        let rights = capabilities(DAEMONSET).unwrap();
        assert_eq!(capabilities(pod).unwrap(), rights);
        assert_eq!(capabilities(debug).unwrap(), rights);
        mask(&rights).unwrap();
    }

    #[test]
    fn capabilities_of_a_manifest() {
        let names = capabilities("a:\n  add: [\"BPF\", \"SYSLOG\"]\n").unwrap();
        assert_eq!(names, ["BPF", "SYSLOG"]);
        assert_eq!(mask(&names).unwrap(), 1 << 39 | 1 << 34);
        assert!(mask(&["EVERYTHING"]).is_err());
        assert!(capabilities("").is_err());
        assert!(capabilities("add: [\"BPF\"]\nadd: [\"BPF\"]").is_err());
    }
}
