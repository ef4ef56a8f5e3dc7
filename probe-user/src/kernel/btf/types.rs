//! One BTF type as it lies in the type section.

/// BTF_KIND_* of include/uapi/linux/btf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Int,
            2 => Self::Ptr,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Fwd,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Func,
            13 => Self::FuncProto,
            14 => Self::Var,
            15 => Self::Datasec,
            16 => Self::Float,
            17 => Self::DeclTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            _ => return None,
        })
    }

    /// Bytes that follow the 12 byte `struct btf_type` for this kind.
    pub(super) fn trailing_len(self, vlen: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => vlen.saturating_mul(12),
            Self::Enum | Self::FuncProto => vlen.saturating_mul(8),
            Self::Ptr
            | Self::Fwd
            | Self::Typedef
            | Self::Volatile
            | Self::Const
            | Self::Restrict
            | Self::Func
            | Self::Float
            | Self::TypeTag => 0,
        }
    }

    /// Kinds that are found by name; members, parameters and enumerators are not types.
    pub(super) fn is_looked_up(self) -> bool {
        matches!(
            self,
            Self::Struct | Self::Union | Self::Enum | Self::Enum64 | Self::Typedef | Self::Func
        )
    }
}

/// `struct btf_type` with what follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type<'a> {
    pub(super) name_off: u32,
    pub(super) kind: Kind,
    /// For structs: member offsets also hold bitfield sizes. For enums: values are signed.
    pub(super) kind_flag: bool,
    /// Bytes for kinds that have a size, the id of another type for the others.
    pub(super) size_or_type: u32,
    trailing: &'a [u8],
}

/// `struct btf_member`; `offset` still in the coding the struct's `kind_flag` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) name_off: u32,
    pub(super) type_id: u32,
    offset: u32,
}

impl Member {
    /// Bits from the start of the struct.
    pub(super) fn bit_offset(&self, kind_flag: bool) -> u32 {
        if kind_flag { self.offset & 0x00ff_ffff } else { self.offset }
    }

    /// Width in bits of a bitfield, 0 for any other member.
    pub(super) fn bitfield_size(&self, kind_flag: bool) -> u32 {
        if kind_flag { self.offset >> 24 } else { 0 }
    }
}

impl<'a> Type<'a> {
    pub(super) const HEADER_LEN: usize = 12;

    /// Reads the type at `offset` of a type section. `Err(kind)` is an unknown kind, `Ok(None)` a
    /// type that does not fit in the section.
    pub(super) fn read(section: &'a [u8], offset: usize) -> Result<Option<Self>, u32> {
        let Some(header) = section.get(offset..).and_then(<[u8]>::first_chunk::<12>) else {
            return Ok(None);
        };
        let [n0, n1, n2, n3, i0, i1, i2, i3, s0, s1, s2, s3] = *header;
        let info = u32::from_ne_bytes([i0, i1, i2, i3]);
        // Older kernels define 16 bits of vlen and 5 of kind and require the bits between to be
        // zero, so the wider reading is right for both.
        let vlen = info & 0x00ff_ffff;
        let number = (info >> 24) & 0x7f;
        let kind = Kind::from_number(number).ok_or(number)?;
        let start = offset + Self::HEADER_LEN;
        let end = start.saturating_add(kind.trailing_len(vlen as usize));
        let Some(trailing) = section.get(start..end) else {
            return Ok(None);
        };
        Ok(Some(Self {
            name_off: u32::from_ne_bytes([n0, n1, n2, n3]),
            kind,
            kind_flag: info >> 31 == 1,
            size_or_type: u32::from_ne_bytes([s0, s1, s2, s3]),
            trailing,
        }))
    }

    /// Bytes in the type section, header included.
    pub(super) fn encoded_len(&self) -> usize {
        Self::HEADER_LEN + self.trailing.len()
    }

    pub(super) fn is_composite(&self) -> bool {
        matches!(self.kind, Kind::Struct | Kind::Union)
    }

    /// Members of a struct or union; nothing for other kinds.
    pub(super) fn members(&self) -> impl Iterator<Item = Member> + use<'a> {
        let bytes = if self.is_composite() { self.trailing } else { &[] };
        words::<3>(bytes).map(|[name_off, type_id, offset]| Member { name_off, type_id, offset })
    }

    /// (name offset, value) of each enumerator. A 64 bit value above `i64::MAX` wraps.
    pub(super) fn enumerators(&self) -> impl Iterator<Item = (u32, i64)> + use<'a> {
        let signed = self.kind_flag;
        let (narrow, wide): (&[u8], &[u8]) = match self.kind {
            Kind::Enum => (self.trailing, &[]),
            Kind::Enum64 => (&[], self.trailing),
            _ => (&[], &[]),
        };
        let narrow = words::<2>(narrow).map(move |[name, value]| {
            (name, if signed { i64::from(value.cast_signed()) } else { i64::from(value) })
        });
        let wide = words::<3>(wide).map(|[name, low, high]| {
            (name, ((u64::from(high) << 32) | u64::from(low)).cast_signed())
        });
        narrow.chain(wide)
    }

    /// (element type id, number of elements) of an array.
    pub(super) fn array(&self) -> Option<(u32, u32)> {
        if self.kind != Kind::Array {
            return None;
        }
        words::<3>(self.trailing).next().map(|[element, _index, count]| (element, count))
    }

    /// Number of parameters of a function prototype.
    pub(super) fn param_count(&self) -> Option<usize> {
        (self.kind == Kind::FuncProto).then_some(self.trailing.len() / 8)
    }

    /// (bit offset inside the storage unit, width in bits) of an integer: how bitfields were coded
    /// before `kind_flag`.
    pub(super) fn int_bits(&self) -> Option<(u32, u32)> {
        if self.kind != Kind::Int {
            return None;
        }
        words::<1>(self.trailing).next().map(|[data]| ((data >> 16) & 0xff, data & 0xff))
    }
}

/// Splits bytes into groups of `N` native-endian 32 bit words; a rest that is too short is left out.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u32; N]> + use<'_, N> {
    bytes.chunks_exact(N * 4).map(|chunk| {
        let mut group = [0; N];
        for (word, four) in group.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*four);
        }
        group
    })
}
