//! Recordings: the stream of events in a pcapng file, with the packets it tells of.

pub mod packets;
