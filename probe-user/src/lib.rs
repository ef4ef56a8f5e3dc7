//! stallprobe as a library: the loader, and the pure stages behind it.

pub mod event;
pub mod kernel;
