//! The wire ABI between stallprobe's kernel programs and its loader, and nothing else.
//!
//! Every struct here is `repr(C)`, has no implicit padding (asserted below its definition) and only
//! plain integers in it, so that any bit pattern is a valid value. All integers are in the byte
//! order of the machine; addresses are in network order as the kernel keeps them; ports are in host
//! order.
#![no_std]

pub mod armed;
pub mod config;
pub mod event;
pub mod ipvs;
pub mod layout;
pub mod net;
pub mod offsets;
pub mod stats;

/// Types without padding whose every bit pattern is valid, so that they may be copied from bytes.
///
/// # Safety
/// The implementor is `repr(C)`, has no padding and consists of integers and arrays of them only.
pub unsafe trait Plain: Copy + 'static {}

/// Declares that a struct is [`Plain`] and checks at compile time that its size is the sum of its
/// fields, that is: that it has no padding.
macro_rules! plain {
    ($t:ty { $($field:ident : $ft:ty),+ $(,)? }) => {
        const _: () = assert!(
            core::mem::size_of::<$t>() == 0 $(+ core::mem::size_of::<$ft>())+,
            concat!("padding in ", stringify!($t))
        );
        // SAFETY: repr(C), integers only, and the assertion above excludes padding.
        unsafe impl $crate::Plain for $t {}
    };
}
pub(crate) use plain;

/// Defines a [`Plain`] struct: `repr(C)`, `Copy`, no padding, with a table of its fields.
macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $ft:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ft),+ }
        $crate::plain!($name { $($field: $ft),+ });
        impl $crate::layout::Shaped for $name {
            const SHAPE: &'static $crate::layout::Shape = &$crate::layout::Shape::Struct(&[$(
                $crate::layout::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field),
                    shape: <$ft as $crate::layout::Shaped>::SHAPE,
                }
            ),+]);
        }
    };
}
pub(crate) use wire;
