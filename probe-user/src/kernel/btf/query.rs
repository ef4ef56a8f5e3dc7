//! Questions to BTF: where a member lies, how large a struct is, what an enumerator is worth, how
//! many arguments a function or tracepoint has.

use thiserror::Error;

use super::{
    parse::Btf,
    types::{Kind, Member, Type},
};

/// Typedefs, qualifiers and array dimensions in a row. The kernel's own limit is 32
/// (`MAX_RESOLVE_DEPTH`).
const MAX_CHAIN: usize = 64;
/// Anonymous structs inside each other.
const MAX_NESTING: usize = 32;
/// Members looked at in one question. The largest kernel structs have a few hundred.
const MAX_MEMBERS: u32 = 1_000_000;
/// Every kernel this tool runs on has 64 bit pointers.
const POINTER_SIZE: u32 = 8;

/// Where a member lies, counted from the start of the outermost struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes to the member, or to the storage unit that holds a bitfield.
    pub byte_offset: u32,
    /// Bytes of the member (an array's whole length, 0 for a flexible one), or of the storage unit
    /// to read for a bitfield.
    pub byte_size: u32,
    pub bits: Option<BitField>,
}

/// The bits of a bitfield in its storage unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitField {
    /// Bits from the start of the storage unit: on a little-endian machine the right shift that
    /// brings the value to bit 0.
    pub offset: u32,
    pub size: u32,
}

/// Why a question has no answer.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum QueryError {
    #[error("this kernel's BTF has no {what} {name}")]
    NoType { what: &'static str, name: String },
    #[error("struct {name} has no member {path} in this kernel's BTF")]
    NoMember { name: String, path: String },
    #[error("{path} of struct {name} goes through a {kind} in this kernel's BTF")]
    NotAStruct { name: String, path: String, kind: String },
    #[error("this kernel's BTF is malformed: {0}")]
    Malformed(String),
}

impl Btf {
    /// Looks up `path` in the struct or union (or typedef of one) called `name`.
    ///
    /// The path is dotted (`"__sk_common.skc_net.net"`). Each step also finds members of anonymous
    /// structs and unions, and goes through typedefs, qualifiers and type tags, but not through
    /// pointers or arrays; an array may be the last step. When there are several structs of that
    /// name, the first one that has the member answers.
    ///
    /// # Errors
    /// [`QueryError::NoType`] or [`QueryError::NoMember`] when this kernel does not have it.
    pub fn member(&self, name: &str, path: &str) -> Result<Field, QueryError> {
        let mut budget = MAX_MEMBERS;
        let mut first_error = None;
        for ty in self.composites(name) {
            match self.walk(ty?, name, path, &mut budget) {
                Ok(field) => return Ok(field),
                Err(error) if budget == 0 => return Err(error),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error
            .unwrap_or_else(|| QueryError::NoType { what: "struct", name: name.to_owned() }))
    }

    /// Bytes of the struct or union called `name`.
    ///
    /// # Errors
    /// [`QueryError::NoType`] when this kernel has only a declaration of it, or nothing.
    pub fn struct_size(&self, name: &str) -> Result<u32, QueryError> {
        self.composites(name).next().map_or_else(
            || Err(QueryError::NoType { what: "struct", name: name.to_owned() }),
            |ty| ty.map(|ty| ty.size_or_type),
        )
    }

    /// The value of one enumerator, or `None` when the enum or the enumerator does not exist.
    #[must_use]
    pub fn enum_value(&self, enum_name: &str, value_name: &str) -> Option<i64> {
        self.enums(enum_name)
            .flat_map(|ty| ty.enumerators())
            .find(|&(name, _)| self.string(name) == Some(value_name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// All enumerators in the kernel's order; empty when there is no such enum.
    #[must_use]
    pub fn enum_values(&self, enum_name: &str) -> Vec<(String, i64)> {
        self.enums(enum_name)
            .map(|ty| {
                ty.enumerators()
                    .filter_map(|(name, value)| {
                        let name = self.string(name)?;
                        Some((String::from_utf8_lossy(name).into_owned(), value))
                    })
                    .collect::<Vec<_>>()
            })
            .find(|values| !values.is_empty())
            .unwrap_or_default()
    }

    /// Number of parameters of a function, or `None` when BTF does not know it. A `...` counts as
    /// one.
    #[must_use]
    pub fn func_params(&self, name: &str) -> Option<usize> {
        self.named(name)
            .filter(|ty| ty.kind == Kind::Func)
            .find_map(|ty| self.type_by_id(ty.size_or_type)?.param_count())
    }

    /// Number of arguments a raw tracepoint hands over, or `None` when there is no such tracepoint.
    ///
    /// Source: `typedef void (*btf_trace_NAME)(void *__data, proto)` of
    /// include/trace/bpf_probe.h; the leading `__data` is not an argument.
    #[must_use]
    pub fn tracepoint_args(&self, name: &str) -> Option<usize> {
        let typedef = format!("btf_trace_{name}");
        self.named(&typedef).filter(|ty| ty.kind == Kind::Typedef).find_map(|ty| {
            let pointer = self.peel(ty).ok()?;
            if pointer.kind != Kind::Ptr {
                return None;
            }
            self.type_by_id(pointer.size_or_type)?.param_count()?.checked_sub(1)
        })
    }

    /// Full definitions of a struct or union: those of that name, then those a typedef of that name
    /// stands for.
    fn composites<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = Result<Type<'a>, QueryError>> {
        let direct = self.named(name).filter(Type::is_composite).map(Ok);
        let typedefs = self
            .named(name)
            .filter(|ty| ty.kind == Kind::Typedef)
            .map(|ty| self.peel(ty))
            .filter(|ty| ty.as_ref().map_or(true, Type::is_composite));
        direct.chain(typedefs)
    }

    fn enums<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Type<'a>> {
        self.named(name).filter(|ty| matches!(ty.kind, Kind::Enum | Kind::Enum64))
    }

    fn walk(
        &self,
        start: Type<'_>,
        name: &str,
        path: &str,
        budget: &mut u32,
    ) -> Result<Field, QueryError> {
        let mut steps = path.split('.').peekable();
        let mut ty = start;
        let mut bits = 0_u64;
        while let Some(step) = steps.next() {
            if !ty.is_composite() {
                return Err(QueryError::NotAStruct {
                    name: name.to_owned(),
                    path: path.to_owned(),
                    kind: format!("{:?}", ty.kind).to_lowercase(),
                });
            }
            let found = if step.is_empty() {
                None
            } else {
                self.find(ty, step.as_bytes(), bits, MAX_NESTING, budget)?
            };
            let Some(found) = found else {
                return Err(QueryError::NoMember { name: name.to_owned(), path: path.to_owned() });
            };
            bits = found.bits;
            if steps.peek().is_none() {
                return self.field(&found);
            }
            ty = self.peel_id(found.member.type_id)?;
        }
        Err(QueryError::NoMember { name: name.to_owned(), path: path.to_owned() })
    }

    /// Finds a member by name in `ty` and in the anonymous structs and unions inside it.
    fn find(
        &self,
        ty: Type<'_>,
        wanted: &[u8],
        base_bits: u64,
        nesting: usize,
        budget: &mut u32,
    ) -> Result<Option<Found>, QueryError> {
        for member in ty.members() {
            *budget = budget.saturating_sub(1);
            if *budget == 0 {
                return Err(QueryError::Malformed("a struct that does not end".to_owned()));
            }
            let bits = base_bits + u64::from(member.bit_offset(ty.kind_flag));
            let Some(name) = self.string(member.name_off) else {
                return Err(QueryError::Malformed("a member without a readable name".to_owned()));
            };
            if name == wanted {
                return Ok(Some(Found { member, bits, kind_flag: ty.kind_flag }));
            }
            if !name.is_empty() {
                continue;
            }
            let inner = self.peel_id(member.type_id)?;
            if !inner.is_composite() {
                continue; // an unnamed bitfield is padding
            }
            let Some(nesting) = nesting.checked_sub(1) else {
                return Err(QueryError::Malformed("structs nested without end".to_owned()));
            };
            if let Some(found) = self.find(inner, wanted, bits, nesting, budget)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn field(&self, found: &Found) -> Result<Field, QueryError> {
        let byte_size = self.size_of(found.member.type_id)?;
        let (mut bits, mut width) = (found.bits, found.member.bitfield_size(found.kind_flag));
        if !found.kind_flag
            && let Ok(ty) = self.peel_id(found.member.type_id)
            && let Some((inner, int_width)) = ty.int_bits()
            && (inner != 0 || int_width != byte_size.saturating_mul(8) || bits % 8 != 0)
        {
            bits += u64::from(inner);
            width = int_width;
        }
        if width == 0 {
            if bits % 8 != 0 {
                return Err(QueryError::Malformed(format!("a member at bit {bits}")));
            }
            return Ok(Field { byte_offset: to_u32(bits / 8)?, byte_size, bits: None });
        }
        // The storage unit: as large as the declared type and aligned to it, or twice as large
        // where a packed struct lets the field cross that boundary.
        let mut unit = u64::from(byte_size).clamp(1, 8).next_power_of_two();
        loop {
            let start = bits / 8 / unit * unit;
            let offset = bits - start * 8;
            if offset + u64::from(width) <= unit * 8 {
                return Ok(Field {
                    byte_offset: to_u32(start)?,
                    byte_size: to_u32(unit)?,
                    bits: Some(BitField { offset: to_u32(offset)?, size: width }),
                });
            }
            if unit >= 8 {
                return Err(QueryError::Malformed(format!("a bitfield of {width} bits")));
            }
            unit *= 2;
        }
    }

    fn size_of(&self, type_id: u32) -> Result<u32, QueryError> {
        let mut elements = 1_u32;
        let mut ty = self.peel_id(type_id)?;
        for _ in 0..MAX_CHAIN {
            let size = match ty.kind {
                Kind::Int
                | Kind::Struct
                | Kind::Union
                | Kind::Enum
                | Kind::Enum64
                | Kind::Float
                | Kind::Datasec => ty.size_or_type,
                Kind::Ptr => POINTER_SIZE,
                Kind::Array => {
                    let (element, count) = ty.array().unwrap_or_default();
                    elements = elements.checked_mul(count).ok_or_else(too_large)?;
                    ty = self.peel_id(element)?;
                    continue;
                }
                other => return Err(QueryError::Malformed(format!("a member of kind {other:?}"))),
            };
            return elements.checked_mul(size).ok_or_else(too_large);
        }
        Err(QueryError::Malformed("arrays of arrays without end".to_owned()))
    }

    fn peel_id(&self, id: u32) -> Result<Type<'_>, QueryError> {
        self.type_by_id(id)
            .ok_or_else(|| QueryError::Malformed(format!("type {id} does not exist")))
            .and_then(|ty| self.peel(ty))
    }

    /// Goes through typedefs, qualifiers and type tags.
    fn peel<'a>(&'a self, mut ty: Type<'a>) -> Result<Type<'a>, QueryError> {
        for _ in 0..MAX_CHAIN {
            match ty.kind {
                Kind::Typedef | Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag => {
                    let id = ty.size_or_type;
                    ty = self.type_by_id(id).ok_or_else(|| {
                        QueryError::Malformed(format!("type {id} does not exist"))
                    })?;
                }
                _ => return Ok(ty),
            }
        }
        Err(QueryError::Malformed("typedefs without end".to_owned()))
    }
}

struct Found {
    member: Member,
    /// Bits from the start of the outermost struct.
    bits: u64,
    kind_flag: bool,
}

fn to_u32(value: u64) -> Result<u32, QueryError> {
    u32::try_from(value).map_err(|_| too_large())
}

fn too_large() -> QueryError {
    QueryError::Malformed("a member beyond 4 GB".to_owned())
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
