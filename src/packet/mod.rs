//! Decoding of frames: finds where each header is, without copying.
//!
//! Input: a frame's bytes and its link type. Output: [`Headers`] (offsets), and [`StreamKey`]s made from them. No I/O, no settings.

mod address;
mod decode;
mod headers;
mod icmp;
mod key;
mod synthetic_frame;

pub use address::Address;
pub use decode::{Decoder, Undecodable};
pub use headers::{Headers, Link, NO_VLAN, Network, Transport, Tunnel};
pub use key::{Direction, KeyKind, StreamKey};
