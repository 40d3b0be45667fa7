//! Headers of a frame: where each one is, and accessors that read fields from the frame.

use std::net::IpAddr;

use super::{MAX_TUNNEL_DEPTH, VlanTags, wifi};

/// The link header at [`Headers::link_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// No such header.
    None,
    /// Ethernet.
    Ethernet,
    /// Linux cooked capture, version 1.
    Sll,
    /// Linux cooked capture, version 2.
    Sll2,
    /// IEEE 802.11 data frame.
    Wifi,
    /// IP over Fibre Channel.
    FibreChannel,
    /// Destination and source address, side by side, of FDDI or token ring.
    Addresses,
}

/// The network header at [`Headers::network_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// No such header.
    None,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
    /// Another protocol.
    Other,
}

impl Network {
    /// Number of variants.
    pub const COUNT: usize = 5;
}

/// The transport header at [`Headers::transport_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// No such header.
    None,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP.
    Icmp,
    /// ICMPv6.
    Icmpv6,
    /// IGMP.
    Igmp,
    /// Another protocol.
    Other,
}

impl Transport {
    /// Number of variants.
    pub const COUNT: usize = 8;
}

/// What the packet was wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// No such header.
    None,
    /// GRE (RFC 2784).
    Gre,
    /// GRE, version 1: PPTP.
    Pptp,
    /// ERSPAN, types I to III.
    Erspan,
    /// WCCP, in GRE.
    Wccp,
    /// VXLAN (RFC 7348) and VXLAN-GPE.
    Vxlan,
    /// Geneve (RFC 8926).
    Geneve,
    /// LISP (RFC 9300).
    Lisp,
    /// Network service header.
    Nsh,
    /// GTP-U.
    Gtp,
    /// L2TP, version 2.
    L2tp,
    /// CAPWAP data (RFC 5415).
    Capwap,
    /// TaZmen Sniffer Protocol.
    Tzsp,
    /// Teredo (RFC 4380).
    Teredo,
    /// IPv4 and IPv6 within each other (RFC 2003, RFC 4213).
    IpInIp,
    /// EtherIP (RFC 3378).
    EtherIp,
    /// MPLS in IP or UDP.
    MplsInIp,
    /// Ethernet pseudowire over MPLS.
    Pseudowire,
    /// Provider backbone bridge (IEEE 802.1ah).
    BackboneBridge,
    /// Ethernet within Ethernet, by EtherType 0x6558.
    EthernetBridging,
}

impl Tunnel {
    /// All kinds of tunnels.
    const ALL: [Self; 19] = [
        Self::Gre,
        Self::Pptp,
        Self::Erspan,
        Self::Wccp,
        Self::Vxlan,
        Self::Geneve,
        Self::Lisp,
        Self::Nsh,
        Self::Gtp,
        Self::L2tp,
        Self::Capwap,
        Self::Tzsp,
        Self::Teredo,
        Self::IpInIp,
        Self::EtherIp,
        Self::MplsInIp,
        Self::Pseudowire,
        Self::BackboneBridge,
        Self::EthernetBridging,
    ];

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The names of all kinds, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Name in lower case; empty if there is no tunnel.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gre => "gre",
            Self::Pptp => "pptp",
            Self::Erspan => "erspan",
            Self::Wccp => "wccp",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Lisp => "lisp",
            Self::Nsh => "nsh",
            Self::Gtp => "gtp",
            Self::L2tp => "l2tp",
            Self::Capwap => "capwap",
            Self::Tzsp => "tzsp",
            Self::Teredo => "teredo",
            Self::IpInIp => "ip-in-ip",
            Self::EtherIp => "etherip",
            Self::MplsInIp => "mpls-in-ip",
            Self::Pseudowire => "eompls",
            Self::BackboneBridge => "802.1ah",
            Self::EthernetBridging => "teb",
        }
    }
}

/// Where each header of a packet is. Offsets (`*_at`, `payload_end`) are in bytes from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The link header.
    pub link: Link,
    /// Offset of the link header.
    pub link_at: u16,
    /// EtherType of what follows link, VLAN, MPLS and PPPoE headers; 0 for 802.3 frames with LLC.
    pub ether_type: u16,
    /// VLANs of the frame, and of frames within it.
    pub vlans: VlanTags,
    /// The network header.
    pub network: Network,
    /// Offset of the network header.
    pub network_at: u16,
    /// The transport header.
    pub transport: Transport,
    /// Offset of the transport header.
    pub transport_at: u16,
    /// IP protocol, after any IPv6 extension headers; 0 if the packet is not IP.
    pub ip_protocol: u8,
    /// Whether this is a fragment other than the first, which has no transport header.
    pub later_fragment: bool,
    /// Tunnels that were opened, outermost first. The other headers are then the innermost packet's.
    pub tunnels: [Tunnel; MAX_TUNNEL_DEPTH as usize],
    /// Number of tunnels that were opened, one within the other.
    pub tunnel_depth: u8,
    /// 0 if the packet is not TCP or was truncated before its flags.
    pub tcp_flags: u8,
    /// First byte after the last decoded header.
    pub payload_at: u32,
    /// End of the captured payload, without link padding.
    pub payload_end: u32,
    /// Bytes of payload on the wire, by the IP header; the frame may hold fewer.
    pub payload_wire_len: u32,
}

fn mac(frame: &[u8], at: usize) -> Option<[u8; 6]> {
    frame.get(at..at + 6)?.try_into().ok()
}

/// Offsets of the protocol addresses of sender and target in an ARP packet for IPv4.
const ARP_SENDER: usize = 14;
const ARP_TARGET: usize = 24;

impl Headers {
    /// Headers of a frame in which nothing was found.
    pub(crate) const NONE: Self = Self {
        link: Link::None,
        link_at: 0,
        ether_type: 0,
        vlans: VlanTags::NONE,
        network: Network::None,
        network_at: 0,
        transport: Transport::None,
        transport_at: 0,
        ip_protocol: 0,
        later_fragment: false,
        tunnels: [Tunnel::None; MAX_TUNNEL_DEPTH as usize],
        tunnel_depth: 0,
        tcp_flags: 0,
        payload_at: 0,
        payload_end: 0,
        payload_wire_len: 0,
    };

    /// The sender's MAC address.
    pub fn src_mac(&self, frame: &[u8]) -> Option<[u8; 6]> {
        let at = usize::from(self.link_at);
        match self.link {
            Link::Ethernet | Link::Addresses => mac(frame, at + 6),
            Link::FibreChannel => mac(frame, at + 10),
            // Of three addresses, the last is the sender's if the frame comes from the distribution system; of four, the fourth.
            Link::Wifi => match frame.get(at + 1)? & (wifi::TO_DS | wifi::FROM_DS) {
                wifi::FROM_DS => mac(frame, at + 16),
                0 | wifi::TO_DS => mac(frame, at + 10),
                _ => mac(frame, at + 24),
            },
            // Cooked headers hold a link-layer address of any length, after that length.
            Link::Sll if frame.get(at + 4..at + 6) == Some(&[0, 6]) => mac(frame, at + 6),
            Link::Sll2 if frame.get(at + 11) == Some(&6) => mac(frame, at + 12),
            _ => None,
        }
    }

    /// The receiver's MAC address, which cooked headers lack.
    pub fn dst_mac(&self, frame: &[u8]) -> Option<[u8; 6]> {
        let at = usize::from(self.link_at);
        match self.link {
            Link::Ethernet | Link::Addresses => mac(frame, at),
            Link::FibreChannel => mac(frame, at + 2),
            Link::Wifi if frame.get(at + 1)? & wifi::TO_DS != 0 => mac(frame, at + 16),
            Link::Wifi => mac(frame, at + 4),
            Link::None | Link::Sll | Link::Sll2 => None,
        }
    }

    /// The IP address at this offset of the network header, by IP version.
    fn addr(&self, frame: &[u8], ipv4: usize, ipv6: usize) -> Option<IpAddr> {
        let at = usize::from(self.network_at);
        match self.network {
            Network::Ipv4 => Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at + ipv4..at + ipv4 + 4)?).ok()?)),
            Network::Ipv6 => Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at + ipv6..at + ipv6 + 16)?).ok()?)),
            _ => None,
        }
    }

    /// The source IP address.
    pub fn src_addr(&self, frame: &[u8]) -> Option<IpAddr> {
        self.addr(frame, 12, 8)
    }

    /// The destination IP address.
    pub fn dst_addr(&self, frame: &[u8]) -> Option<IpAddr> {
        self.addr(frame, 16, 24)
    }

    /// The protocol addresses of the sender and of the target of an ARP packet for IPv4 (RFC 826).
    pub fn arp_hosts(&self, frame: &[u8]) -> Option<[IpAddr; 2]> {
        let address = |offset: usize| {
            let at = usize::from(self.network_at) + offset;
            Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?))
        };
        if self.network == Network::Arp { Some([address(ARP_SENDER)?, address(ARP_TARGET)?]) } else { None }
    }

    /// Source and destination port; 0 if the packet has none or was truncated before them.
    pub fn ports(&self, frame: &[u8]) -> (u16, u16) {
        let at = usize::from(self.transport_at);
        match (self.transport, frame.get(at..at + 4)) {
            (Transport::Tcp | Transport::Udp | Transport::Sctp, Some(p)) => {
                (u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]]))
            }
            _ => (0, 0),
        }
    }

    /// The captured payload.
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(self.payload_at as usize..self.payload_end as usize).unwrap_or(&[])
    }
}
