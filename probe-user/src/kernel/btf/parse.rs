//! Header, string section and type section of BTF, into a table of offsets and an index of names.

use std::{fmt, sync::Arc};

use thiserror::Error;

use super::types::Type;

/// `BTF_MAGIC`, in the byte order of the machine that made it.
const MAGIC: u16 = 0xeb9f;
/// `sizeof(struct btf_header)` as first defined; newer headers only append.
const HEADER_LEN: usize = 24;
/// Names have at most `KSYM_NAME_LEN` bytes with their NUL (include/linux/kallsyms.h; fewer in older
/// kernels). Bounds the work that a million names of a megabyte each would make.
const MAX_NAME: usize = 512;

/// Why bytes are not BTF that can be read here.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    #[error("BTF is cut short: {have} bytes, {need} needed for its {what}")]
    Truncated { what: &'static str, need: u64, have: u64 },
    #[error("not BTF: it starts with {0:#06x} instead of 0xeb9f")]
    BadMagic(u16),
    #[error("this BTF was made for a machine of the other byte order")]
    ForeignByteOrder,
    #[error("BTF version {0} is not known; only version 1 is")]
    UnknownVersion(u8),
    #[error("BTF string section is malformed: {0}")]
    BadStrings(&'static str),
    #[error("BTF type {id} has kind {kind}, which is not known")]
    UnknownKind { id: u32, kind: u32 },
    #[error("BTF type {id} reaches beyond the end of the type section")]
    TypeOverrun { id: u32 },
    #[error("BTF with its base holds more than 2^32 types or string bytes")]
    TooLarge,
}

/// The types of a kernel, or of one module on top of them.
pub struct Btf {
    base: Option<Arc<Btf>>,
    types: Box<[u8]>,
    strings: Box<[u8]>,
    /// Where each type starts in `types`; the first one has the id `first_id`.
    offsets: Vec<u32>,
    /// 1 for vmlinux (id 0 is void), else one above the base's last id.
    first_id: u32,
    /// Offset of the first own string byte in the numbering shared with the base.
    first_string: u32,
    /// (hash of the name, id) of every own type that is looked up by name, sorted.
    names: Vec<(u32, u32)>,
}

impl fmt::Debug for Btf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Btf")
            .field("first_id", &self.first_id)
            .field("types", &self.offsets.len())
            .field("string_bytes", &self.strings.len())
            .field("split", &self.base.is_some())
            .finish()
    }
}

impl Btf {
    /// Parses BTF that stands by itself, such as `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// When the bytes are not BTF of this machine's byte order, or hold a kind of type that is not
    /// known here.
    pub fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        Self::parse_with(bytes, None)
    }

    /// Parses split BTF, such as `/sys/kernel/btf/nf_conntrack`, on top of `base` (vmlinux).
    /// Questions to the result are answered from the module first and then from the base.
    ///
    /// # Errors
    /// As [`Btf::parse`].
    pub fn parse_split(bytes: &[u8], base: &Arc<Self>) -> Result<Self, BtfError> {
        Self::parse_with(bytes, Some(Arc::clone(base)))
    }

    fn parse_with(bytes: &[u8], base: Option<Arc<Self>>) -> Result<Self, BtfError> {
        let header = Header::read(bytes)?;
        let types = header.section(bytes, "type section", header.type_off, header.type_len)?;
        let strings = header.section(bytes, "string section", header.str_off, header.str_len)?;
        check_strings(strings, base.is_some())?;

        let (first_id, first_string) = match &base {
            Some(base) => (base.end_id()?, base.end_string()?),
            None => (1, 0),
        };
        let mut btf = Self {
            base,
            types: types.into(),
            strings: strings.into(),
            offsets: Vec::new(),
            first_id,
            first_string,
            names: Vec::new(),
        };
        btf.end_string()?;
        btf.index()?;
        Ok(btf)
    }

    /// Fills `offsets` and `names`. Each type takes at least 12 bytes, so both stay within the size
    /// of the input.
    fn index(&mut self) -> Result<(), BtfError> {
        let mut offsets = Vec::with_capacity(self.types.len() / 24);
        let mut names = Vec::with_capacity(self.types.len() / 32);
        let mut at = 0_u32;
        let mut id = self.first_id;
        while (at as usize) < self.types.len() {
            let ty = Type::read(&self.types, at as usize)
                .map_err(|kind| BtfError::UnknownKind { id, kind })?
                .ok_or(BtfError::TypeOverrun { id })?;
            offsets.push(at);
            if ty.kind.is_looked_up()
                && let Some(name) = self.string(ty.name_off)
                && !name.is_empty()
            {
                names.push((hash(name), id));
            }
            // The section's length came from a 32 bit field, so neither addition can wrap here;
            // only an id on top of a large base can.
            at = at.saturating_add(u32::try_from(ty.encoded_len()).unwrap_or(u32::MAX));
            id = id.checked_add(1).ok_or(BtfError::TooLarge)?;
        }
        names.sort_unstable();
        self.offsets = offsets;
        self.names = names;
        Ok(())
    }

    /// One above the last type id.
    fn end_id(&self) -> Result<u32, BtfError> {
        u32::try_from(self.offsets.len())
            .ok()
            .and_then(|count| self.first_id.checked_add(count))
            .ok_or(BtfError::TooLarge)
    }

    /// One above the last string offset.
    fn end_string(&self) -> Result<u32, BtfError> {
        u32::try_from(self.strings.len())
            .ok()
            .and_then(|len| self.first_string.checked_add(len))
            .ok_or(BtfError::TooLarge)
    }

    /// Number of types, without those of the base.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no type besides those of the base.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The bytes of the string at `offset` without its NUL; the base's strings come first. `None`
    /// also for what is longer than any name.
    pub(super) fn string(&self, offset: u32) -> Option<&[u8]> {
        let mut btf = self;
        while offset < btf.first_string {
            btf = btf.base.as_deref()?;
        }
        let tail = btf.strings.get((offset - btf.first_string) as usize..)?;
        let end = tail.iter().take(MAX_NAME).position(|&byte| byte == 0)?;
        tail.get(..end)
    }

    /// The type with this id, here or in the base. `None` for void (0) and ids that do not exist.
    pub(super) fn type_by_id(&self, id: u32) -> Option<Type<'_>> {
        let mut btf = self;
        while id < btf.first_id {
            btf = btf.base.as_deref()?;
        }
        let offset = *btf.offsets.get((id - btf.first_id) as usize)?;
        Type::read(&btf.types, offset as usize).ok().flatten()
    }

    /// Structs, unions, enums, typedefs and functions of this name: own ones first, then the base's.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Type<'a>> {
        let wanted = hash(name.as_bytes());
        std::iter::successors(Some(self), |btf| btf.base.as_deref())
            .flat_map(move |btf| {
                let start = btf.names.partition_point(|&(hash, _)| hash < wanted);
                btf.names
                    .get(start..)
                    .unwrap_or_default()
                    .iter()
                    .take_while(move |&&(hash, _)| hash == wanted)
            })
            .filter_map(|&(_, id)| self.type_by_id(id))
            .filter(move |ty| self.string(ty.name_off) == Some(name.as_bytes()))
    }
}

/// `struct btf_header`.
struct Header {
    len: u32,
    type_off: u32,
    type_len: u32,
    str_off: u32,
    str_len: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, BtfError> {
        let Some([m0, m1, version, _flags, rest @ ..]) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(truncated("header", HEADER_LEN as u64, bytes));
        };
        match u16::from_ne_bytes([*m0, *m1]) {
            MAGIC => {}
            magic if magic == MAGIC.swap_bytes() => return Err(BtfError::ForeignByteOrder),
            magic => return Err(BtfError::BadMagic(magic)),
        }
        if *version != 1 {
            return Err(BtfError::UnknownVersion(*version));
        }
        let mut fields = rest.as_chunks::<4>().0.iter().map(|four| u32::from_ne_bytes(*four));
        let mut next = || fields.next().unwrap_or_default();
        let header = Self {
            len: next(),
            type_off: next(),
            type_len: next(),
            str_off: next(),
            str_len: next(),
        };
        if (header.len as usize) < HEADER_LEN {
            return Err(truncated("header", HEADER_LEN as u64, bytes));
        }
        Ok(header)
    }

    /// A section's bytes. Its offset counts from the end of the header.
    fn section<'a>(
        &self,
        bytes: &'a [u8],
        what: &'static str,
        offset: u32,
        len: u32,
    ) -> Result<&'a [u8], BtfError> {
        let start = u64::from(self.len) + u64::from(offset);
        let end = start + u64::from(len);
        usize::try_from(start)
            .ok()
            .zip(usize::try_from(end).ok())
            .and_then(|(start, end)| bytes.get(start..end))
            .ok_or_else(|| truncated(what, end, bytes))
    }
}

/// The rules of `btf_parse_str_sec` (kernel/bpf/btf.c).
fn check_strings(strings: &[u8], split: bool) -> Result<(), BtfError> {
    match (strings.first(), strings.last()) {
        (None, _) if split => Ok(()),
        (None, _) => Err(BtfError::BadStrings("it is empty")),
        (_, Some(&last)) if last != 0 => Err(BtfError::BadStrings("its last string has no end")),
        (Some(&first), _) if first != 0 && !split => {
            Err(BtfError::BadStrings("it does not start with the empty string"))
        }
        _ => Ok(()),
    }
}

fn truncated(what: &'static str, need: u64, bytes: &[u8]) -> BtfError {
    BtfError::Truncated { what, need, have: bytes.len() as u64 }
}

/// FNV-1a. Only narrows the search: names are compared afterwards.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
