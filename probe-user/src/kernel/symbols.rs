//! `/proc/kallsyms`: which functions the kernel has, where they start and end, and which one an
//! address (the place of a drop) lies in.
//!
//! The file has some 200,000 lines. It is read line by line, and only text symbols are kept, in one
//! table sorted by address.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Names have at most 512 bytes (`KSYM_NAME_LEN`), modules 56: a longer line is not kallsyms.
const MAX_LINE: u64 = 1024;
/// No function is as long as this. Cuts the last function before a gap between modules.
const MAX_FUNCTION: u64 = 1 << 20;

/// Variables of the kernel whose addresses are kept.
const VARIABLES: [&str; 2] = ["page_offset_base", "vmemmap_base"];

/// Why kallsyms could not be read.
#[derive(Debug, Error)]
pub enum SymbolError {
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("line {line} of {} is not a kernel symbol", .path.display())]
    Line { path: PathBuf, line: usize },
}

/// The kernel's text symbols at one moment.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Sorted by address; in the file's order where addresses are equal.
    functions: Vec<Entry>,
    /// All names behind each other; entries point into it.
    names: String,
    /// Index 0 is the kernel itself.
    modules: Vec<String>,
    hidden: bool,
    /// Addresses of [`VARIABLES`], 0 of those that are not listed (without CONFIG_KALLSYMS_ALL none is).
    variables: [u64; VARIABLES.len()],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    /// Bytes up to the next symbol of any kind, at most [`MAX_FUNCTION`].
    len: u32,
    name: u32,
    name_len: u16,
    module: u16,
}

/// One function of the kernel or of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    pub name: &'a str,
    /// The module's name, `None` for the kernel itself.
    pub module: Option<&'a str>,
    /// From its first byte to the next symbol. Empty when addresses are hidden.
    pub range: Range<u64>,
}

/// A place in the kernel's text, printed like the kernel does: `nf_hook_slow+0x4d` or
/// `ip_vs_nat_xmit+0x1c [ip_vs]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    pub symbol: &'a str,
    pub offset: u64,
    pub module: Option<&'a str>,
}

impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.symbol, self.offset)?;
        self.module.map_or(Ok(()), |module| write!(f, " [{module}]"))
    }
}

impl Symbols {
    /// Reads `/proc/kallsyms` below `root`.
    ///
    /// # Errors
    /// When the file cannot be read (no CONFIG_KALLSYMS, no right) or is something else.
    pub fn load(root: &Path) -> Result<Self, SymbolError> {
        let path = root.join("proc/kallsyms");
        let file =
            File::open(&path).map_err(|source| SymbolError::Read { path: path.clone(), source })?;
        Self::read(BufReader::with_capacity(1 << 16, file), &path)
    }

    /// Reads the text of kallsyms; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Symbols::load`].
    pub fn read(mut input: impl BufRead, path: &Path) -> Result<Self, SymbolError> {
        let mut symbols = Self { modules: vec![String::new()], ..Self::default() };
        let mut addresses = Vec::new();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            if read.map_err(|source| SymbolError::Read { path: path.to_owned(), source })? == 0 {
                break;
            }
            let parsed = std::str::from_utf8(&line).ok().and_then(Line::parse);
            parsed
                .and_then(|line| {
                    addresses.push(line.address);
                    symbols.keep_variable(&line);
                    if line.is_text() { symbols.push(&line) } else { Some(()) }
                })
                .ok_or_else(|| SymbolError::Line { path: path.to_owned(), line: number })?;
        }
        symbols.finish(addresses);
        Ok(symbols)
    }

    fn keep_variable(&mut self, line: &Line<'_>) {
        let known = VARIABLES.iter().position(|name| *name == line.name && line.module.is_none());
        if let Some(address) = known.and_then(|index| self.variables.get_mut(index)) {
            *address = line.address;
        }
    }

    /// Where a variable of the kernel lies, of the few whose addresses are kept.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<u64> {
        let index = VARIABLES.iter().position(|known| *known == name)?;
        self.variables.get(index).copied().filter(|&address| address != 0)
    }

    /// `None` when a table is full, which takes a file that is no kernel's.
    fn push(&mut self, line: &Line<'_>) -> Option<()> {
        let module = match line.module {
            None => 0,
            // Modules come one after the other in the file, so the last one is the likely one.
            Some(name) => match self.modules.iter().rposition(|known| known == name) {
                Some(index) => index,
                None => {
                    self.modules.push(name.to_owned());
                    self.modules.len() - 1
                }
            },
        };
        let name = u32::try_from(self.names.len()).ok()?;
        self.names.push_str(line.name);
        self.functions.push(Entry {
            address: line.address,
            len: 0,
            name,
            name_len: u16::try_from(line.name.len()).ok()?,
            module: u16::try_from(module).ok()?,
        });
        Some(())
    }

    /// Sorts, and gives each function its end.
    fn finish(&mut self, mut addresses: Vec<u64>) {
        self.hidden =
            !self.functions.is_empty() && self.functions.iter().all(|entry| entry.address == 0);
        self.functions.sort_by_key(|entry| entry.address);
        self.functions.shrink_to_fit();
        self.names.shrink_to_fit();
        addresses.sort_unstable();
        let mut next = addresses.iter().peekable();
        for entry in &mut self.functions {
            while next.next_if(|&&address| address <= entry.address).is_some() {}
            let len = next.peek().map_or(0, |&&end| (end - entry.address).min(MAX_FUNCTION));
            entry.len = u32::try_from(len).unwrap_or_default();
        }
    }

    /// Whether the kernel shows all addresses as zero (`kernel.kptr_restrict`, or CAP_SYSLOG is
    /// missing). Names can still be looked up, addresses cannot.
    #[must_use]
    pub fn addresses_hidden(&self) -> bool {
        self.hidden
    }

    /// Every function of this name: static functions of different files may share one.
    pub fn functions<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Function<'a>> {
        self.functions.iter().filter(move |entry| self.name(entry) == name).map(|entry| Function {
            name: self.name(entry),
            module: self.module(entry),
            range: entry.address..entry.address.saturating_add(u64::from(entry.len)),
        })
    }

    /// Whether there is a function of this name, in the kernel or in a loaded module.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.functions(name).next().is_some()
    }

    /// First address of a function and the address behind its end. `None` when there is no such
    /// function, more than one, or no address.
    #[must_use]
    pub fn range(&self, name: &str) -> Option<Range<u64>> {
        let mut found = self.functions(name);
        let range = found.next()?.range;
        (found.next().is_none() && !range.is_empty()).then_some(range)
    }

    /// The function an address lies in.
    #[must_use]
    pub fn locate(&self, address: u64) -> Option<Location<'_>> {
        if self.hidden {
            return None;
        }
        let end = self.functions.partition_point(|entry| entry.address <= address);
        let last = self.functions.get(end.checked_sub(1)?)?;
        // Of several names for one address the kernel prints the first.
        let first = self.functions.partition_point(|entry| entry.address < last.address);
        let entry = self.functions.get(first)?;
        let offset = address - entry.address;
        (offset < u64::from(entry.len.max(1))).then(|| Location {
            symbol: self.name(entry),
            offset,
            module: self.module(entry),
        })
    }

    fn name(&self, entry: &Entry) -> &str {
        let start = entry.name as usize;
        self.names.get(start..start + usize::from(entry.name_len)).unwrap_or_default()
    }

    fn module(&self, entry: &Entry) -> Option<&str> {
        if entry.module == 0 {
            return None;
        }
        self.modules.get(usize::from(entry.module)).map(String::as_str)
    }
}

/// `ffffffff81000000 T _stext` or `ffffffffc0a01000 t nf_conntrack_in\t[nf_conntrack]`.
struct Line<'a> {
    address: u64,
    kind: char,
    name: &'a str,
    module: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let mut kind = words.next()?.chars();
        let kind = kind.next().filter(|_| kind.as_str().is_empty())?;
        let name = words.next()?;
        let module = match words.next() {
            None => None,
            Some(word) => Some(word.strip_prefix('[')?.strip_suffix(']')?),
        };
        words.next().is_none().then_some(Self { address, kind, name, module })
    }

    fn is_text(&self) -> bool {
        matches!(self.kind, 't' | 'T' | 'w' | 'W')
    }
}

#[cfg(test)]
#[path = "symbols_tests.rs"]
mod tests;
