//! What the guest's console tells about a run.

const UP: &[u8] = b"STALLPROBE-VM-UP\n";
const STATUS: &[u8] = b"STALLPROBE-VM-STATUS=";

/// Whether the guest's init has started.
pub fn is_up(console: &[u8]) -> bool {
    find(&plain(console), UP).is_some()
}

/// The command's exit status, once the guest has told it.
pub fn status(console: &[u8]) -> Option<i32> {
    let console = plain(console);
    let start = find(&console, STATUS)? + STATUS.len();
    let rest = console.get(start..)?;
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
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
        let console =
            b"[    1.0] boot\r\nSTALLPROBE-VM-UP\r\n\r\nSTALLPROBE-VM-STATUS=127\r\n[ 2.0]";
        assert!(is_up(console));
        assert_eq!(status(console), Some(127));
        assert_eq!(status(b"\nSTALLPROBE-VM-STATUS=1"), None);
        assert_eq!(status(b"\nSTALLPROBE-VM-STATUS=\n"), None);
        assert_eq!(status(b"nothing"), None);
        assert!(!is_up(b"STALLPROBE-VM-U"));
    }

    #[test]
    fn a_panic_is_told_rather_than_what_follows_it() {
        let console = b"a\n[ 3.1] Oops: int3: 0000\n[ 3.2] Kernel panic\n[ 3.3] Rebooting\x1b[m\n";
        assert_eq!(last_words(console), "[ 3.1] Oops: int3: 0000");
        assert_eq!(last_words(b"one\r\n\x1b[2Jtwo\r\n"), "[2Jtwo");
        assert_eq!(last_words(b""), "the console stayed empty");
    }
}
