//! Makes small BTF blobs for tests: what a compiler and pahole would have written.

use super::types::Type;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const ENUM64: u32 = 19;

/// A BTF blob being made. Methods that add a type return its id.
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    next_id: u32,
    first_string: u32,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], next_id: 1, first_string: 0 }
    }

    /// Split BTF on top of what `base` holds now.
    pub(crate) fn on(base: &Self) -> Self {
        Self {
            types: Vec::new(),
            strings: Vec::new(),
            next_id: base.next_id,
            first_string: base.first_string + base.strings.len() as u32,
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let offset = self.first_string + self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        offset
    }

    /// Any type: `info` is kind, vlen and kind flag as the format has them, `trailing` what follows.
    pub(crate) fn raw(
        &mut self,
        name: &str,
        info: u32,
        size_or_type: u32,
        trailing: &[u32],
    ) -> u32 {
        let name = self.name(name);
        for word in [name, info, size_or_type].iter().chain(trailing) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
        self.next_id += 1;
        self.next_id - 1
    }

    pub(crate) fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.raw(name, INT << 24, bytes, &[bytes * 8])
    }

    /// An integer type of `bits` bits, as bitfields were coded before kind flags.
    pub(crate) fn int_bits(&mut self, name: &str, bytes: u32, bits: u32) -> u32 {
        self.raw(name, INT << 24, bytes, &[bits])
    }

    pub(crate) fn ptr(&mut self, to: u32) -> u32 {
        self.raw("", PTR << 24, to, &[])
    }

    pub(crate) fn array(&mut self, element: u32, count: u32) -> u32 {
        self.raw("", ARRAY << 24, 0, &[element, 1, count])
    }

    /// Members as (name, type, byte offset).
    pub(crate) fn strukt(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.composite(STRUCT, name, size, members)
    }

    pub(crate) fn union(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.composite(UNION, name, size, members)
    }

    fn composite(&mut self, kind: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let mut words = Vec::new();
        for &(name, ty, byte) in members {
            words.extend([self.name(name), ty, byte * 8]);
        }
        self.raw(name, kind << 24 | members.len() as u32, size, &words)
    }

    /// A struct with kind flag. Members as (name, type, bit offset, bitfield width or 0).
    pub(crate) fn struct_with_bitfields(
        &mut self,
        name: &str,
        size: u32,
        members: &[(&str, u32, u32, u32)],
    ) -> u32 {
        let mut words = Vec::new();
        for &(name, ty, bit, width) in members {
            words.extend([self.name(name), ty, width << 24 | bit]);
        }
        self.raw(name, 1 << 31 | STRUCT << 24 | members.len() as u32, size, &words)
    }

    pub(crate) fn fwd(&mut self, name: &str) -> u32 {
        self.raw(name, FWD << 24, 0, &[])
    }

    pub(crate) fn enumeration(&mut self, name: &str, signed: bool, values: &[(&str, u32)]) -> u32 {
        let mut words = Vec::new();
        for &(name, value) in values {
            words.extend([self.name(name), value]);
        }
        self.raw(name, u32::from(signed) << 31 | ENUM << 24 | values.len() as u32, 4, &words)
    }

    pub(crate) fn enumeration64(&mut self, name: &str, values: &[(&str, i64)]) -> u32 {
        let mut words = Vec::new();
        for &(name, value) in values {
            words.extend([self.name(name), value as u32, (value >> 32) as u32]);
        }
        self.raw(name, ENUM64 << 24 | values.len() as u32, 8, &words)
    }

    /// A typedef, `const` (10), `volatile` (9), `restrict` (11) or type tag (18) is the same shape.
    pub(crate) fn typedef(&mut self, name: &str, to: u32) -> u32 {
        self.raw(name, TYPEDEF << 24, to, &[])
    }

    pub(crate) fn qualifier(&mut self, kind: u32, to: u32) -> u32 {
        self.raw("", kind << 24, to, &[])
    }

    pub(crate) fn proto(&mut self, returns: u32, params: &[u32]) -> u32 {
        let words: Vec<u32> = params.iter().flat_map(|&ty| [0, ty]).collect();
        self.raw("", FUNC_PROTO << 24 | params.len() as u32, returns, &words)
    }

    pub(crate) fn func(&mut self, name: &str, proto: u32) -> u32 {
        self.raw(name, FUNC << 24, proto, &[])
    }

    /// A tracepoint's typedef with `args` arguments.
    pub(crate) fn tracepoint(&mut self, name: &str, args: usize) {
        let void_ptr = self.ptr(0);
        let proto = self.proto(0, &vec![void_ptr; args + 1]);
        let pointer = self.ptr(proto);
        self.typedef(&format!("btf_trace_{name}"), pointer);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&0xeb9f_u16.to_ne_bytes());
        bytes.extend_from_slice(&[1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.types);
        bytes.extend_from_slice(&self.strings);
        bytes
    }

    /// The id the next type gets, for types that name themselves.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }
}

/// Bytes of a type without anything behind its header, to cut blobs at interesting places.
pub(crate) const TYPE_HEADER: usize = Type::HEADER_LEN;
