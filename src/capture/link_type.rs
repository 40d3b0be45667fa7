//! Link types: the numbers that say how a frame begins.

/// A `LINKTYPE_` value, as capture files store it (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: the address family in the byte order of the capturing host, then IP.
    pub const NULL: Self = Self(0);
    /// Ethernet (IEEE 802.3).
    pub const ETHERNET: Self = Self(1);
    /// PPP (RFC 1661).
    pub const PPP: Self = Self(9);
    /// Raw IP under its `DLT_` number, which libpcap uses for open interfaces.
    pub const DLT_RAW: Self = Self(12);
    /// Raw IP under OpenBSD's `DLT_` number.
    pub const DLT_RAW_OPENBSD: Self = Self(14);
    /// PPP in HDLC-like framing (RFC 1662).
    pub const PPP_HDLC: Self = Self(50);
    /// Raw IP: the version is in the first four bits.
    pub const RAW: Self = Self(101);
    /// IEEE 802.11 without a radio header.
    pub const IEEE802_11: Self = Self(105);
    /// OpenBSD loopback: as [`LinkType::NULL`], the address family in network byte order.
    pub const LOOP: Self = Self(108);
    /// Linux cooked capture, version 1.
    pub const LINUX_SLL: Self = Self(113);
    /// IEEE 802.11 with a radiotap header.
    pub const IEEE802_11_RADIOTAP: Self = Self(127);
    /// The first of the user-defined link types.
    pub const USER0: Self = Self(147);
    /// The last of the user-defined link types.
    pub const USER15: Self = Self(162);
    /// Bluetooth HCI UART transport layer.
    pub const BLUETOOTH_HCI_H4: Self = Self(187);
    /// Linux USB with a header of 48 bytes.
    pub const USB_LINUX: Self = Self(189);
    /// IEEE 802.15.4 with a frame check sequence.
    pub const IEEE802_15_4: Self = Self(195);
    /// Linux USB with a header of 64 bytes.
    pub const USB_LINUX_MMAPPED: Self = Self(220);
    /// CAN with a SocketCAN header.
    pub const CAN_SOCKETCAN: Self = Self(227);
    /// IPv4 without a link header.
    pub const IPV4: Self = Self(228);
    /// IPv6 without a link header.
    pub const IPV6: Self = Self(229);
    /// Linux cooked capture, version 2.
    pub const LINUX_SLL2: Self = Self(276);
}

impl std::fmt::Display for LinkType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match *self {
            Self::NULL => "loopback (null)",
            Self::ETHERNET => "Ethernet",
            Self::PPP | Self::PPP_HDLC => "PPP",
            Self::RAW | Self::DLT_RAW | Self::DLT_RAW_OPENBSD | Self::IPV4 | Self::IPV6 => "raw IP",
            Self::IEEE802_11 => "802.11",
            Self::LOOP => "loopback",
            Self::LINUX_SLL => "Linux cooked v1",
            Self::IEEE802_11_RADIOTAP => "802.11 with radiotap",
            Self(number) if (Self::USER0.0..=Self::USER15.0).contains(&number) => "user-defined",
            Self::BLUETOOTH_HCI_H4 => "Bluetooth HCI",
            Self::USB_LINUX | Self::USB_LINUX_MMAPPED => "USB",
            Self::IEEE802_15_4 => "802.15.4",
            Self::CAN_SOCKETCAN => "CAN",
            Self::LINUX_SLL2 => "Linux cooked v2",
            _ => "unknown",
        };
        write!(f, "{name} ({})", self.0)
    }
}
