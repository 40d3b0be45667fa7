//! Addresses of a stream's endpoints: IPv4, IPv6 or MAC.

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The kind of a key's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
    Mac,
    None,
}

/// An endpoint's address, displayed in the usual notation; empty if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// In the first 4 (IPv4), 6 (MAC) or 16 (IPv6) bytes, in network byte order.
    pub(super) bytes: [u8; 16],
    pub(super) family: Family,
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let mut bytes = [0; 16];
        let family = match address {
            IpAddr::V4(address) => {
                bytes[..4].copy_from_slice(&address.octets());
                Family::Ipv4
            }
            IpAddr::V6(address) => {
                bytes = address.octets();
                Family::Ipv6
            }
        };
        Self { bytes, family }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = &self.bytes;
        match self.family {
            Family::Ipv4 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).fmt(f),
            Family::Ipv6 => Ipv6Addr::from(*bytes).fmt(f),
            Family::Mac => {
                let [m0, m1, m2, m3, m4, m5, ..] = bytes;
                write!(f, "{m0:02x}:{m1:02x}:{m2:02x}:{m3:02x}:{m4:02x}:{m5:02x}")
            }
            Family::None => Ok(()),
        }
    }
}

/// Each byte in decimal with a dot after it, and the length of that text.
const DOTTED: [([u8; 4], usize); 256] = {
    let mut all = [([b'.'; 4], 0); 256];
    let mut byte = 0;
    while byte < 256 {
        let (text, length) = &mut all[byte];
        *length = if byte < 10 {
            2
        } else if byte < 100 {
            3
        } else {
            4
        };
        let (mut at, mut rest) = (*length - 1, byte);
        while at > 0 {
            at -= 1;
            text[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        byte += 1;
    }
    all
};

impl Address {
    /// Whether it is a MAC address.
    pub fn is_mac(&self) -> bool {
        self.family == Family::Mac
    }

    /// Whether there is no address: the link header has none, or (as in Linux cooked captures) only that of the sender.
    pub fn is_absent(&self) -> bool {
        match self.family {
            Family::None => true,
            Family::Mac => self.bytes == [0; 16],
            Family::Ipv4 | Family::Ipv6 => false,
        }
    }

    /// Appends the displayed text; for IPv4 without the formatting machinery, since every event has two addresses.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.family != Family::Ipv4 {
            write!(out, "{self}").expect("writing to a vector succeeds");
            return;
        }
        let (mut text, mut end) = ([0; 16], 0);
        for &byte in &self.bytes[..4] {
            let (dotted, length) = DOTTED[usize::from(byte)];
            text[end..end + 4].copy_from_slice(&dotted);
            end += length;
        }
        out.extend_from_slice(&text[..end - 1]);
    }
}
