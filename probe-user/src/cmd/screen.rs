//! Where text goes: findings to stdout, all else to stderr, with a status line that stays in place
//! on a terminal and comes once a minute elsewhere.

use std::{
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// How often the status is printed where it cannot stay in place.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// How often it is drawn anew where it stays in place.
const REDRAW: Duration = Duration::from_millis(500);
/// Width of a terminal that does not tell.
const WIDTH: usize = 80;

/// The two outputs and what they are.
pub struct Screen {
    pub colour: bool,
    pub width: usize,
    /// Standard output is for something else: findings are not printed.
    pub quiet: bool,
    /// stderr is a terminal: the status line stays in place.
    in_place: bool,
    /// The status line stands at the bottom now.
    shown: bool,
    last: Instant,
}

impl Screen {
    pub fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: terminal && !dumb && std::env::var_os("NO_COLOR").is_none(),
            width: columns(),
            quiet: false,
            in_place: io::stderr().is_terminal() && !dumb,
            shown: false,
            last: Instant::now(),
        }
    }

    /// Prints lines for whoever reads findings.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn out(&mut self, text: &str) -> io::Result<()> {
        self.clear();
        if self.quiet {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.trim_end_matches('\n'))?;
        out.flush()
    }

    /// Prints lines beside the findings.
    pub fn note(&mut self, text: &str) {
        self.clear();
        // Nobody may be left to read it.
        let _ = writeln!(io::stderr(), "{}", text.trim_end_matches('\n'));
    }

    /// Shows how it goes.
    pub fn status(&mut self, line: &str) {
        if self.in_place {
            if self.shown && self.last.elapsed() < REDRAW {
                return;
            }
            self.last = Instant::now();
            let fits: String = line.chars().take(self.width.saturating_sub(1)).collect();
            let _ = write!(io::stderr(), "\r\x1b[2K{fits}");
            let _ = io::stderr().flush();
            self.shown = true;
        } else if self.last.elapsed() >= STATUS_EVERY {
            self.last = Instant::now();
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Takes the status line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[2K");
            let _ = io::stderr().flush();
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether writing failed because the reader went away, which is no error of ours.
pub fn reader_gone(err: &anyhow::Error) -> bool {
    err.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == ErrorKind::BrokenPipe)
    })
}

/// Columns of the terminal: what it tells, else `$COLUMNS`, else 80.
pub fn columns() -> usize {
    // SAFETY: all bytes zero is a valid winsize.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes a winsize to a valid pointer.
    let told = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    match usize::from(size.ws_col) {
        0 => columns.unwrap_or(WIDTH),
        columns if told => columns,
        _ => WIDTH,
    }
    .clamp(40, 200)
}
