//! One boot of a virtual machine, from QEMU's start to its end.
use std::{
    fs,
    fs::File,
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    arch::Arch,
    tsc,
    verdict::{self, Crash},
};

/// Memory of a guest that needs no more, in MB.
pub const MEMORY: u32 = 1024;
/// Time for the guest to get from QEMU's start to its init; it is 3 seconds on a quiet machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Time to power off once the verdict is there.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);
/// `panic=-1` with `-no-reboot` ends QEMU at a panic. The rest makes booting faster or traces easier to
/// read.
const KERNEL_ARGUMENTS: &str =
    "quiet panic=-1 mitigations=off nokaslr audit=0 cryptomgr.notests=1 rdinit=/init";
/// `tsc=reliable`: without it QEMU's emulation can crash a guest on a loaded host, when the kernel
/// distrusts the clock and patches its own text.
const X86_ARGUMENTS: &str = "console=ttyS0 tsc=reliable";
/// The board's one serial line is the console; the other is a PCI card, and the only one of its kind.
/// Unknown words are variables of the guest's init.
const ARM_ARGUMENTS: &str = "console=ttyAMA0 CONSOLE=ttyAMA0 OUTPUT=ttyS0";

/// How the processor is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// In software: works everywhere.
    Tcg,
    /// By the processor itself. That /dev/kvm exists does not mean that a guest can boot.
    Kvm,
}

pub struct Machine<'a> {
    pub arch: Arch,
    pub image: &'a Path,
    pub initramfs: &'a Path,
    /// More kernel arguments.
    pub append: &'a str,
    pub accel: Accel,
    /// In MB.
    pub memory: u32,
    /// From the moment the guest's init has started.
    pub time_limit: Duration,
}

/// How a boot ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest told the command's exit status. How long the command took by the guest's clock and
    /// by this machine's.
    Finished { status: i32, guest: Duration, here: Duration },
    /// The command ran longer than it may.
    TimedOut,
    /// No verdict: the machine, not the command, failed. With what the console said last.
    Died(String),
}

/// What came of a boot.
pub struct Boot {
    pub outcome: Outcome,
    /// What the console told of a crash, even of one that the machine survived.
    pub crash: Option<Crash>,
}

/// Boots and waits. `output` gets the command's output as it comes; `folder` is for QEMU's files.
pub fn boot(machine: &Machine<'_>, folder: &Path, output: &mut dyn FnMut(&[u8])) -> Result<Boot> {
    let console = folder.join("console.log");
    let errors = folder.join("qemu.log");
    for path in [&console, &errors] {
        File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let log = File::create(&errors).with_context(|| format!("cannot open {}", errors.display()))?;
    let mut child = command(machine, &console)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot run setpriv and qemu-system-x86_64: run `cargo xtask setup`")?;
    let chunks = read_output(&mut child)?;
    let outcome = watch(machine, &mut child, &console, &chunks, output);
    // Whatever happened, QEMU does not outlive this function.
    let _killed = child.kill();
    child.wait().context("cannot wait for QEMU")?;
    while let Ok(chunk) = chunks.recv() {
        output(&chunk);
    }
    let outcome = match outcome? {
        Outcome::Died(words) if words.is_empty() => {
            let text = fs::read(&errors).unwrap_or_default();
            Outcome::Died(format!("QEMU: {}", verdict::last_words(&text)))
        }
        outcome => outcome,
    };
    let text = fs::read(&console).with_context(|| format!("cannot read {}", console.display()))?;
    Ok(Boot { outcome, crash: verdict::crash(&text) })
}

fn command(machine: &Machine<'_>, console: &Path) -> Command {
    // setpriv makes the kernel end QEMU when xtask dies, however it dies.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", &format!("qemu-system-{}", machine.arch.name())]);
    match (machine.arch, machine.accel) {
        // One thread for both processors: with two, QEMU before 8.0 may go on running what it made
        // of an instruction that the kernel has patched meanwhile, and the kernel then dies of its
        // own breakpoints ("Oops: int3"). Turning `kernel.sched_schedstats` on and off does that
        // within half a minute.
        (Arch::X86_64, Accel::Tcg) => {
            command.args(["-accel", "tcg,thread=single", "-cpu", "max", "-machine", "pc"])
        }
        (Arch::X86_64, Accel::Kvm) => {
            command.args(["-accel", "kvm", "-cpu", "host", "-machine", "pc"])
        }
        // Always emulated here. Its own kind of pointer authentication costs QEMU a fraction of the
        // architecture's.
        (Arch::Aarch64, _) => command
            .args(["-accel", "tcg,thread=single", "-cpu", "max,pauth-impdef=on"])
            .args(["-machine", "virt,gic-version=3"]),
    };
    command
        .args(["-smp", "2", "-m", &machine.memory.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-nic", "none", "-no-reboot"])
        .args(cards())
        .arg("-kernel")
        .arg(machine.image)
        .arg("-initrd")
        .arg(machine.initramfs)
        .arg("-append")
        .arg(format!("{KERNEL_ARGUMENTS} {} {}", arguments(machine), machine.append))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-chardev", "stdio,id=output,signal=off"]);
    match machine.arch {
        Arch::X86_64 => command.args(["-serial", "chardev:output"]),
        Arch::Aarch64 => command.args(["-device", "pci-serial,chardev=output"]),
    };
    command
}

/// Two network cards, eth0 and eth1, on a hub of their own inside QEMU with nothing else on it: what
/// leaves by the one comes in at the other, and never gets any further. Without `romfile=` QEMU asks
/// for a boot loader of Debian's ipxe-qemu.
fn cards() -> impl Iterator<Item = String> {
    ["card0", "card1"].into_iter().flat_map(|card| {
        let port = format!("hubport,id={card},hubid=0");
        let device = format!("virtio-net-pci,netdev={card},romfile=");
        ["-netdev".to_owned(), port, "-device".to_owned(), device]
    })
}

fn arguments(machine: &Machine<'_>) -> String {
    match machine.arch {
        Arch::X86_64 => format!("{X86_ARGUMENTS}{}", clock(machine.accel)),
        Arch::Aarch64 => ARM_ARGUMENTS.to_owned(),
    }
}

/// Tells the emulated machine the rate of its counter, which is this machine's (cpu_get_ticks() in
/// QEMU, determine_cpu_tsc_frequencies() in arch/x86/kernel/tsc.c).
fn clock(accel: Accel) -> String {
    match (accel, tsc::khz()) {
        (Accel::Tcg, Some(khz)) => format!(" tsc_early_khz={khz}"),
        _ => String::new(),
    }
}

fn read_output(child: &mut Child) -> Result<Receiver<Vec<u8>>> {
    let mut stdout = child.stdout.take().context("no pipe from QEMU")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            let chunk = buffer.get(..length).unwrap_or_default().to_vec();
            if sender.send(chunk).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

fn watch(
    machine: &Machine<'_>,
    child: &mut Child,
    console: &Path,
    chunks: &Receiver<Vec<u8>>,
    output: &mut dyn FnMut(&[u8]),
) -> Result<Outcome> {
    let mut deadline = Instant::now() + BOOT_LIMIT;
    let mut up = None;
    let mut told = None;
    loop {
        match chunks.recv_timeout(Duration::from_millis(20)) {
            Ok(chunk) => output(&chunk),
            Err(RecvTimeoutError::Timeout) => {}
            // QEMU is ending.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(5)),
        }
        let ended = child.try_wait().context("cannot wait for QEMU")?.is_some();
        let text =
            fs::read(console).with_context(|| format!("cannot read {}", console.display()))?;
        let now = Instant::now();
        if up.is_none()
            && let Some(clock) = verdict::up(&text)
        {
            up = Some((clock, now));
            deadline = now + machine.time_limit;
        }
        if told.is_none()
            && let Some((status, clock)) = verdict::status(&text)
        {
            let (clock_then, then) = up.unwrap_or((clock, now));
            told = Some(Outcome::Finished {
                status,
                guest: clock.saturating_sub(clock_then),
                here: now.saturating_duration_since(then),
            });
            deadline = now + POWER_OFF_LIMIT;
        }
        let late = now >= deadline;
        match &told {
            Some(outcome) if ended || late => return Ok(outcome.clone()),
            None if ended && text.is_empty() => return Ok(Outcome::Died(String::new())),
            None if ended => return Ok(Outcome::Died(verdict::last_words(&text))),
            None if late && up.is_some() => return Ok(Outcome::TimedOut),
            None if late => {
                let words = verdict::last_words(&text);
                return Ok(Outcome::Died(format!("no init after 90 s: {words}")));
            }
            _ => {}
        }
    }
}
