//! Link types: the numbers that say how a frame begins.

use serde::{Deserialize, Serialize};

/// A `LINKTYPE_` value, as capture files store it (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: the address family in the byte order of the capturing host, then IP.
    pub const NULL: Self = Self(0);
    /// Ethernet (IEEE 802.3).
    pub const ETHERNET: Self = Self(1);
    /// Token ring.
    pub const IEEE802_5: Self = Self(6);
    /// SLIP (RFC 1055) with BSD's header.
    pub const SLIP: Self = Self(8);
    /// PPP (RFC 1661).
    pub const PPP: Self = Self(9);
    /// FDDI.
    pub const FDDI: Self = Self(10);
    /// Raw IP under its `DLT_` number, which libpcap uses for open interfaces.
    pub const DLT_RAW: Self = Self(12);
    /// Raw IP under OpenBSD's `DLT_` number.
    pub const DLT_RAW_OPENBSD: Self = Self(14);
    /// PPP in HDLC-like framing (RFC 1662).
    pub const PPP_HDLC: Self = Self(50);
    /// PPPoE, session stage.
    pub const PPP_ETHER: Self = Self(51);
    /// ATM with LLC (RFC 2684).
    pub const ATM_RFC1483: Self = Self(100);
    /// Raw IP: the version is in the first four bits.
    pub const RAW: Self = Self(101);
    /// Cisco HDLC.
    pub const C_HDLC: Self = Self(104);
    /// IEEE 802.11 without a radio header.
    pub const IEEE802_11: Self = Self(105);
    /// Frame relay.
    pub const FRELAY: Self = Self(107);
    /// OpenBSD loopback: as [`LinkType::NULL`], the address family in network byte order.
    pub const LOOP: Self = Self(108);
    /// OpenBSD's IPsec interface.
    pub const ENC: Self = Self(109);
    /// Linux cooked capture, version 1.
    pub const LINUX_SLL: Self = Self(113);
    /// OpenBSD's packet filter log.
    pub const PFLOG: Self = Self(117);
    /// 802.11 with a Prism header.
    pub const IEEE802_11_PRISM: Self = Self(119);
    /// IP over Fibre Channel.
    pub const IP_OVER_FC: Self = Self(122);
    /// ATM as Sun's driver writes it.
    pub const SUNATM: Self = Self(123);
    /// IEEE 802.11 with a radiotap header.
    pub const IEEE802_11_RADIOTAP: Self = Self(127);
    /// TaZmen Sniffer Protocol.
    pub const TZSP: Self = Self(128);
    /// IP over IEEE 1394, as Apple writes it.
    pub const APPLE_IP_OVER_IEEE1394: Self = Self(138);
    /// DOCSIS MAC frames.
    pub const DOCSIS: Self = Self(143);
    /// The first of the user-defined link types.
    pub const USER0: Self = Self(147);
    /// The last of the user-defined link types.
    pub const USER15: Self = Self(162);
    /// 802.11 with an AVS header.
    pub const IEEE802_11_AVS: Self = Self(163);
    /// PPP as Linux's pppd writes it.
    pub const PPP_PPPD: Self = Self(166);
    /// Ethernet with Juniper's header.
    pub const JUNIPER_ETHER: Self = Self(178);
    /// Multilink frame relay.
    pub const MFR: Self = Self(182);
    /// Bluetooth HCI UART transport layer.
    pub const BLUETOOTH_HCI_H4: Self = Self(187);
    /// Linux USB with a header of 48 bytes.
    pub const USB_LINUX: Self = Self(189);
    /// Per-packet information.
    pub const PPI: Self = Self(192);
    /// IEEE 802.15.4 with a frame check sequence.
    pub const IEEE802_15_4: Self = Self(195);
    /// Records of Endace's capture cards.
    pub const ERF: Self = Self(197);
    /// PPP behind a byte with the direction.
    pub const PPP_WITH_DIR: Self = Self(204);
    /// Cisco HDLC behind a byte with the direction.
    pub const C_HDLC_WITH_DIR: Self = Self(205);
    /// Frame relay behind a byte with the direction.
    pub const FRELAY_WITH_DIR: Self = Self(206);
    /// MPLS label stacks.
    pub const MPLS: Self = Self(219);
    /// Linux USB with a header of 64 bytes.
    pub const USB_LINUX_MMAPPED: Self = Self(220);
    /// Solaris's IPNET.
    pub const IPNET: Self = Self(226);
    /// CAN with a SocketCAN header.
    pub const CAN_SOCKETCAN: Self = Self(227);
    /// IPv4 without a link header.
    pub const IPV4: Self = Self(228);
    /// IPv6 without a link header.
    pub const IPV6: Self = Self(229);
    /// Linux's netfilter log.
    pub const NFLOG: Self = Self(239);
    /// Ethernet with the header of Hilscher's netANALYZER.
    pub const NETANALYZER: Self = Self(240);
    /// As [`LinkType::NETANALYZER`], with preamble.
    pub const NETANALYZER_TRANSPARENT: Self = Self(241);
    /// IP over InfiniBand.
    pub const IPOIB: Self = Self(242);
    /// PDUs that Wireshark exported.
    pub const WIRESHARK_UPPER_PDU: Self = Self(252);
    /// Apple's PKTAP.
    pub const PKTAP: Self = Self(258);
    /// Ethernet passive optical networks, with preamble.
    pub const EPON: Self = Self(259);
    /// Ethernet with preamble.
    pub const ETHERNET_MPACKET: Self = Self(274);
    /// Linux cooked capture, version 2.
    pub const LINUX_SLL2: Self = Self(276);
    /// Ethernet with the tag of Broadcom's switches behind the addresses.
    pub const DSA_TAG_BRCM: Self = Self(281);
    /// Ethernet behind the tag of Broadcom's switches.
    pub const DSA_TAG_BRCM_PREPEND: Self = Self(282);
    /// Ethernet with the tag of Marvell's switches.
    pub const DSA_TAG_DSA: Self = Self(284);
    /// As [`LinkType::DSA_TAG_DSA`], with an EtherType of its own.
    pub const DSA_TAG_EDSA: Self = Self(285);
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
            // libpcap's numbers are the same from here on, but for those above.
            Self(number) => {
                let name = pcap::Linktype(number.into()).get_description();
                return write!(f, "{} ({number})", name.as_deref().unwrap_or("unknown"));
            }
        };
        write!(f, "{name} ({})", self.0)
    }
}
