//! How stallprobe treats the node: it changes nothing, leaves nothing behind, and says clearly when
//! it may not look.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::debug_pod::Image;
use crate::{
    bpf,
    case::Skip,
    in_pod::{self, DAEMONSET},
    lab::Lab,
    probe::STALLPROBE,
    snapshot::Snapshot,
    wait::{SOON, until},
};

/// Modules, sysctls and rulesets are the same before, during and after a run. The first case of a
/// boot, so that nothing is loaded yet that looking could load.
pub fn leaves_node_unchanged(lab: &Lab) -> Result<()> {
    if lab.faults_only() {
        return Err(Skip("makes no fault".to_owned()).into());
    }
    // Taking a snapshot loads what nft and tc need; the second one finds it loaded.
    Snapshot::take()?;
    let before = Snapshot::take()?;
    let probe = lab.probe(&["--duration", "3s"])?;
    let during = Snapshot::take()?;
    // A change could also come late, such as when the first status is made.
    let status = probe.exit(Duration::from_secs(60))?;
    ensure!(status.success(), "a run of 3 s ended with {status}");
    let after = Snapshot::take()?;
    for (when, other) in [("while it ran", &during), ("after it ran", &after)] {
        let changes = before.changes(other);
        ensure!(changes.is_empty(), "changed {when}:\n{}", changes.join("\n"));
    }
    probe.only(&[])
}

/// SIGKILL: no program, link or kprobe stays.
pub fn sigkill_leaves_nothing(lab: &Lab) -> Result<()> {
    if lab.faults_only() {
        return Err(Skip("makes no fault".to_owned()).into());
    }
    // With conntrack loaded, its functions are hooked too.
    crate::command::run("modprobe", &["nf_conntrack"])?;
    let before = Attached::now()?;
    let probe = lab.probe(&[])?;
    let while_running = Attached::now()?;
    ensure!(
        while_running.programs > before.programs && while_running.text != before.text,
        "nothing is attached while it runs: {while_running:?}"
    );
    probe.end(libc::SIGKILL)?;
    until("nothing of it is attached", SOON, || {
        let now = Attached::now()?;
        Ok((now == before).then_some(()))
    })
    .with_context(|| format!("before {before:?}\nnow {:?}", Attached::now()))
}

/// What is attached to the kernel, by anyone.
#[derive(Debug, PartialEq)]
struct Attached {
    programs: usize,
    links: usize,
    text: Vec<String>,
}

impl Attached {
    fn now() -> Result<Self> {
        let mut text = Vec::new();
        for path in ["/sys/kernel/debug/kprobes/list", "/sys/kernel/tracing/enabled_functions"] {
            if Path::new(path).exists() {
                let lines =
                    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
                text.extend(lines.lines().map(str::to_owned));
            }
        }
        Ok(Self { programs: bpf::programs()?.len(), links: bpf::links()?.len(), text })
    }
}

/// Without rights: exit status 3, and one sentence that tells which is missing.
pub fn no_rights(lab: &Lab) -> Result<()> {
    if lab.faults_only() {
        return Err(Skip("makes no fault".to_owned()).into());
    }
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    nobody.args(["--bounding-set=-all", STALLPROBE]);
    let watch = ["--duration", "1s"];
    refuses(nobody, &watch, &["CAP_BPF and CAP_PERFMON", "sudo"])?;
    // What a pod has that asks for nothing: root, and file modes do not count.
    let image = Image::new()?;
    refuses(image.pod("DAC_OVERRIDE")?, &watch, &["CAP_BPF and CAP_PERFMON", "securityContext"])?;
    refuses(image.pod("BPF")?, &watch, &["(CAP_PERFMON)"])?;
    // All capabilities of the manifest, and neither hostPID nor the node's files.
    let rights = in_pod::capabilities(DAEMONSET)?.join(",");
    refuses(image.pod_without_node(&rights)?, &watch, &["hostPID", "/host"])?;
    refuses(image.pod_without_node(&rights)?, &["pods"], &["hostPID", "/host"])?;
    // With the node's files and no rights, `pods` lists what it can and tells what it cannot.
    let out = ended(image.pod("DAC_OVERRIDE")?, &["pods"])?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "ended with {}\n{stderr}", out.status);
    ensure!(stderr.contains("without CAP_SYS_ADMIN"), "it does not say what is missing\n{stderr}");
    image.remove()
}

/// It ends with status 3, and one line that has these words.
fn refuses(command: Command, args: &[&str], words: &[&str]) -> Result<()> {
    let out = ended(command, args)?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    if out.status.code() != Some(3) {
        bail!("ended with {}, expected status 3\n{stderr}", out.status);
    }
    let lines = stderr.trim().lines().count();
    ensure!(lines == 1, "{lines} lines on standard error, expected one\n{stderr}");
    let missing = words.iter().find(|&&word| !stderr.contains(word));
    ensure!(missing.is_none(), "it does not say {missing:?}\n{stderr}");
    Ok(())
}

/// Runs stallprobe by this command to its end.
fn ended(mut command: Command, args: &[&str]) -> Result<Output> {
    let mut child = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    until("stallprobe ends", Duration::from_secs(60), || {
        child.try_wait().context("cannot wait for stallprobe")
    })?;
    child.wait_with_output().context("cannot read from stallprobe")
}

/// A filter for system calls that refuses bpf(), as pods have that do not ask for it: what is read from
/// `/proc` remains, and it is said why there is no more.
pub fn seccomp(lab: &Lab) -> Result<()> {
    if lab.faults_only() {
        return Err(Skip("makes no fault".to_owned()).into());
    }
    let mut command = Command::new("/proc/self/exe");
    command.args(["without-bpf", "--", STALLPROBE]);
    let out = ended(command, &["-o", "json", "--duration", "1s"])?;
    ensure!(out.status.success(), "ended with {}", out.status);
    let stdout = String::from_utf8_lossy(&out.stdout);
    let header = stdout.lines().find(|line| line.contains("\"no_ebpf\""));
    let why = header.with_context(|| format!("it does not say what is missing\n{stdout}"))?;
    ensure!(why.contains("seccomp"), "it does not speak of seccomp\n{why}");
    Ok(())
}
