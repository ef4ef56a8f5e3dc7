//! Debian packages without installing them: where the mirrors are, what they have, fetching it.
pub mod archive;
pub mod fetch;
pub mod index;
mod release;
pub mod sources;
