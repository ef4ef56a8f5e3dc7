//! What the guest's console tells about a run.
use std::time::Duration;

const UP: &[u8] = b"STALLPROBE-VM-UP ";
const STATUS: &[u8] = b"STALLPROBE-VM-STATUS=";
/// What two readings of two clocks may differ by on a loaded machine: the console is slow to come.
const READING: Duration = Duration::from_secs(3);

/// What the guest's clock said when its init had started; nothing before that.
pub fn up(console: &[u8]) -> Option<Duration> {
    seconds(&after(console, UP)?)
}

/// The command's exit status and what the guest's clock said then, once the guest has told it.
pub fn status(console: &[u8]) -> Option<(i32, Duration)> {
    let line = after(console, STATUS)?;
    let (status, clock) = line.split_once(' ')?;
    Some((status.parse().ok()?, seconds(clock)?))
}

/// Whether the guest's clock ran too fast or too slow to trust what was timed by it: by more than
/// 30 %. That happens to an emulated machine on a host that is badly overloaded.
pub fn clock_is_off(guest: Duration, here: Duration) -> bool {
    guest.abs_diff(here) > here.mul_f64(0.3) + READING
}

/// What follows a mark on its line, once the line is whole.
fn after(console: &[u8], mark: &[u8]) -> Option<String> {
    let console = plain(console);
    let start = find(&console, mark)? + mark.len();
    let rest = console.get(start..)?;
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    String::from_utf8(rest.get(..end)?.to_vec()).ok()
}

/// Seconds with a fraction, as /proc/uptime has them.
fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

/// The most telling line of a console without a verdict: the panic or oops, else its last line.
/// Control characters are left out: this goes to a terminal.
pub fn last_words(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = ["Oops:", "Kernel panic", "BUG:", "Unable to mount", "Out of memory"];
    let line = lines()
        .find(|line| telling.iter().any(|word| line.contains(word)))
        .or_else(|| lines().next_back())
        .unwrap_or("the console stayed empty");
    line.chars().filter(|c| !c.is_control()).collect()
}

/// Lines of a crash that are shown.
const CRASH_LINES: usize = 60;

/// A crash of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    pub line: String,
    /// That line and what follows: registers and the stack.
    pub text: String,
    /// QEMU's emulation of code that changes itself went wrong: `int3` in sched_clock_cpu(), when
    /// the kernel patches its own text.
    pub of_qemu: bool,
}

/// The first Oops, BUG or panic on a console: die() in arch/x86/kernel/dumpstack.c ends its line with
/// the number of the crash, as in `[#1]`. A processor that was held up by a busy host is none.
pub fn crash(console: &[u8]) -> Option<Crash> {
    let text = String::from_utf8_lossy(console);
    let telling = |line: &&str| {
        let words = ["Oops:", "Kernel panic", "BUG:", "kernel BUG at", " [#1]"];
        words.iter().any(|word| line.contains(word)) && !line.contains("lockup")
    };
    let lines = || text.lines().skip_while(|line| !telling(line));
    let line = lines().next()?;
    let place = lines().find(|line| line.contains("RIP: "));
    let in_clock = place.is_some_and(|line| line.contains("sched_clock"));
    let clean = |line: &str| line.trim().chars().filter(|c| !c.is_control()).collect::<String>();
    Some(Crash {
        line: clean(line),
        text: lines().take(CRASH_LINES).map(clean).collect::<Vec<_>>().join("\n"),
        of_qemu: line.contains("int3") && in_clock,
    })
}

/// The serial line ends lines with \r\n.
fn plain(console: &[u8]) -> Vec<u8> {
    let kept = console.iter().copied().filter(|&byte| byte != b'\r');
    kept.collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_counts_only_when_its_line_is_whole() {
        let console = b"[    1.0] boot\r\nSTALLPROBE-VM-UP 2.50\r\n\r\n\
            STALLPROBE-VM-STATUS=127 14.07\r\n[ 2.0]";
        assert_eq!(up(console), Some(Duration::from_millis(2500)));
        assert_eq!(status(console), Some((127, Duration::from_millis(14_070))));
        for broken in ["=1", "=1 2", "=\n", "=1\n", "= 1\n", "=1 x\n", "=1 -2\n", "=1 inf\n"] {
            let console = format!("\nSTALLPROBE-VM-STATUS{broken}");
            assert_eq!(status(console.as_bytes()), None, "{broken:?}");
        }
        assert_eq!(status(b"nothing"), None);
        assert_eq!(up(b"STALLPROBE-VM-UP 2.5"), None);
        assert_eq!(up(b"STALLPROBE-VM-U"), None);
    }

    #[test]
    fn a_clock_may_be_a_third_off_and_no_more() {
        let off = |guest, here| clock_is_off(Duration::from_secs(guest), Duration::from_secs(here));
        assert!(!off(600, 600) && !off(750, 600) && !off(450, 600));
        assert!(off(800, 600) && off(400, 600) && off(1800, 600));
        // A short command: the readings themselves are not that exact.
        assert!(!off(0, 2) && !off(3, 0));
        assert!(off(30, 10));
    }

    #[test]
    fn a_crash_is_ours_unless_it_has_the_emulations_mark() {
        let of_qemu = |console: &[u8]| crash(console).map(|crash| crash.of_qemu);
        let oops = b"[ 9.1] x\r\n[ 9.2] Oops: int3: 0000 [#1] SMP\r\n[ 9.2] CPU: 0\r\n\
            [ 9.2] RIP: 0010:sched_clock_cpu+0x5/0x10\r\n";
        assert_eq!(of_qemu(oops), Some(true));
        assert_eq!(
            crash(oops).map(|crash| crash.line).as_deref(),
            Some("[ 9.2] Oops: int3: 0000 [#1] SMP")
        );
        assert_eq!(
            of_qemu(b"int3: 0000 [#1] SMP\nRIP: 0010:nf_hook+0x5/0x10\nRIP: sched_clock"),
            Some(false)
        );
        assert_eq!(of_qemu(b"int3: 0000 [#1] SMP\n"), Some(false));
        for line in [
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "kernel BUG at net/core/skbuff.c:123!",
            "general protection fault, probably for non-canonical address: 0000 [#1] SMP",
            "Kernel panic - not syncing: Fatal exception",
        ] {
            assert_eq!(of_qemu(line.as_bytes()), Some(false), "{line}");
        }
        assert_eq!(crash(b"watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n"), None);
        assert_eq!(crash(b"[ 1.0] WARNING: CPU: 0\n[ 1.0] RIP: 0010:sched_clock\n"), None);
        assert_eq!(crash(b""), None);
    }

    #[test]
    fn a_panic_is_told_rather_than_what_follows_it() {
        let console = b"a\n[ 3.1] Oops: int3: 0000\n[ 3.2] Kernel panic\n[ 3.3] Rebooting\x1b[m\n";
        assert_eq!(last_words(console), "[ 3.1] Oops: int3: 0000");
        assert_eq!(last_words(b"one\r\n\x1b[2Jtwo\r\n"), "[2Jtwo");
        assert_eq!(last_words(b""), "the console stayed empty");
    }
}
