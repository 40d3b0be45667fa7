//! Decoding of frames: finds where each header is, without copying.
//!
//! Input: a frame's bytes and its link type. Output: [`Headers`] (offsets), and [`StreamKey`]s made from them. No I/O, no settings.
//! `decode.rs` goes from header to header; each family of wrappings has a file with its parser.

mod address;
mod capwap;
mod decode;
mod erf;
mod gre;
mod gtp;
mod hdlc;
mod headers;
mod icmp;
mod inner;
mod key;
mod l2tp;
mod link;
mod llc;
mod metadata;
mod mpls;
mod nflog;
mod ppp;
mod synthetic_frame;
mod tags;
mod teredo;
mod tunnels;
mod tzsp;
mod usb;
mod vlan;
mod vxlan;
mod wifi;

pub use address::Address;
pub use decode::{Decoder, Undecodable};
pub use headers::{Headers, Link, Network, Transport, Tunnel};
pub use key::{Direction, KeyKind, StreamKey};
pub use tunnels::{MAX_TUNNEL_DEPTH, MAX_TUNNEL_PORTS, TunnelPortError, TunnelSettings, UdpTunnel};
pub use vlan::VlanTags;
