//! USB transfers of network adapters, as Linux's usbmon captures them: Ethernet frames as they are (CDC Ethernet), or in RNDIS messages.

use etherparse::EtherType;

use super::inner::{Inner, Opened, Unopened, be16, byte, le32, require};

/// Bytes of usbmon's header, and of its longer form for memory-mapped reading.
pub(super) const HEADER_LEN: usize = 48;
pub(super) const MAPPED_HEADER_LEN: usize = 64;
/// Offset of the transfer's type, and the type of bulk transfers.
const TRANSFER_AT: usize = 9;
const BULK: u8 = 3;
/// RNDIS: the type of packet messages, and where the offset of their data is, which counts from there.
const RNDIS_PACKET: u32 = 1;
const RNDIS_OFFSET_AT: usize = 8;
const MAX_RNDIS_OFFSET: u32 = 256;
/// Hardware type Ethernet, with which ARP begins.
const ARP_ETHERNET: u16 = 1;

/// The Ethernet frame of a bulk transfer at `at`, whose header has `header` bytes. Other devices transfer other things: only what
/// is IP or ARP counts.
pub(super) fn usb(frame: &[u8], at: usize, header: usize) -> Opened {
    require(byte(frame, at + TRANSFER_AT)? == BULK)?;
    let data = at + header;
    plausible(frame, data).or_else(|_| {
        let offset = le32(frame, data + RNDIS_OFFSET_AT)?;
        require(le32(frame, data)? == RNDIS_PACKET && offset <= MAX_RNDIS_OFFSET)?;
        plausible(frame, data + RNDIS_OFFSET_AT + offset as usize)
    })
}

/// An Ethernet frame at `at`, if it carries IP or ARP.
pub(super) fn plausible(frame: &[u8], at: usize) -> Opened {
    let inner = Inner::ethernet(frame, at)?;
    let carries = match inner.ether_type {
        EtherType::IPV4 | EtherType::IPV6 => Inner::ip(frame, inner.at)?.ether_type == inner.ether_type,
        EtherType::ARP => be16(frame, inner.at)? == ARP_ETHERNET,
        EtherType::VLAN_TAGGED_FRAME => true,
        _ => false,
    };
    if carries { Ok(inner) } else { Err(Unopened::NoPacket) }
}
