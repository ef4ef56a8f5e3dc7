//! What wire structs look like, as data: a recording carries it, so that a reader whose structs have
//! other fields can still read it. Constants that only the loader uses; the kernel programs pay
//! nothing for them.

/// A type on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An unsigned integer of so many bytes.
    Integer(usize),
    /// So many of the same.
    Array(&'static Shape, usize),
    Struct(&'static [Field]),
}

/// A field of a wire struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    /// Bytes from the start of the struct.
    pub offset: usize,
    pub shape: &'static Shape,
}

impl Shape {
    /// In bytes; wire structs have no padding.
    pub const fn size(&self) -> usize {
        match self {
            Self::Integer(size) => *size,
            Self::Array(of, count) => of.size() * *count,
            Self::Struct(fields) => match fields {
                [] => 0,
                [.., last] => last.offset + last.shape.size(),
            },
        }
    }
}

/// Types whose [`Shape`] is known.
pub trait Shaped {
    const SHAPE: &'static Shape;
}

macro_rules! integers {
    ($($t:ty),+) => {
        $(impl Shaped for $t { const SHAPE: &'static Shape = &Shape::Integer(size_of::<$t>()); })+
    };
}
integers!(u8, u16, u32, u64);

impl<T: Shaped, const N: usize> Shaped for [T; N] {
    const SHAPE: &'static Shape = &Shape::Array(T::SHAPE, N);
}
