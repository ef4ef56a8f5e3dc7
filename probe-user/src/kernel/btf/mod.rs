//! A small reader of BTF, the kernel's own description of its types.
//!
//! [`Btf::parse`] reads `/sys/kernel/btf/vmlinux`, [`Btf::parse_split`] the BTF of one module,
//! whose type ids and string offsets continue those of vmlinux. Parsing stores where each type
//! starts in the raw bytes and one sorted index of names; nothing is copied out before it is asked
//! for. The questions are in [`query`](self): struct members, sizes, enum values and argument
//! counts.
//!
//! The input is not trusted: malformed bytes are an error, and cycles are cut by fixed limits.
//!
//! Format: Documentation/bpf/btf.rst and include/uapi/linux/btf.h.

#[cfg(test)]
pub(crate) mod build;
mod load;
mod parse;
mod query;
mod types;

pub use load::{LoadError, load_module, load_vmlinux};
pub use parse::{Btf, BtfError};
pub use query::{BitField, Field, QueryError};
