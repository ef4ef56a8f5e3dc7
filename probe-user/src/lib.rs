//! stallprobe, as a library.
