//! What this kernel is: its types, symbols, modules, restrictions and name.
//!
//! Nothing here decides by the kernel's version. Layouts, argument counts and enum values change
//! inside one stable series, so all of it is asked of the running kernel. Every function that
//! touches a file takes the root of the file system (`/`, or `/host` in a debug pod, or a fixture).

pub mod btf;
pub mod facts;
pub mod ipvs;
pub mod lockdown;
pub mod modules;
pub mod offsets;
pub mod privileges;
pub mod rights;
pub mod symbols;
