//! Each cause and each of its look-alikes, from hand-made events.
