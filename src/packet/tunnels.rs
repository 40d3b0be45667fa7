//! Which tunnels are opened: kinds, UDP ports, and how many within each other.

use super::headers::Tunnel;

/// Most tunnels within each other that can be opened.
pub const MAX_TUNNEL_DEPTH: u8 = 4;
/// Most UDP ports of all tunnels.
pub const MAX_TUNNEL_PORTS: usize = 64;

/// A kind of tunnel over UDP, which is found by its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpTunnel {
    /// VXLAN (RFC 7348).
    Vxlan,
    /// VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe).
    VxlanGpe,
    /// Geneve (RFC 8926).
    Geneve,
    /// LISP (RFC 9300).
    Lisp,
    /// MPLS (RFC 7510).
    Mpls,
    /// TaZmen Sniffer Protocol.
    Tzsp,
    /// GTP-U (3GPP TS 29.281).
    Gtp,
    /// L2TP, version 2 (RFC 2661).
    L2tp,
    /// CAPWAP data (RFC 5415).
    Capwap,
    /// Teredo (RFC 4380).
    Teredo,
}

impl UdpTunnel {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Vxlan,
        Self::VxlanGpe,
        Self::Geneve,
        Self::Lisp,
        Self::Mpls,
        Self::Tzsp,
        Self::Gtp,
        Self::L2tp,
        Self::Capwap,
        Self::Teredo,
    ];

    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::VxlanGpe => "vxlan-gpe",
            Self::Geneve => "geneve",
            Self::Lisp => "lisp",
            Self::Mpls => "mpls",
            Self::Tzsp => "tzsp",
            Self::Gtp => "gtp",
            Self::L2tp => "l2tp",
            Self::Capwap => "capwap",
            Self::Teredo => "teredo",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The ports it has unless set otherwise. Linux used 8472 for VXLAN before a port was assigned.
    pub const fn default_ports(self) -> &'static [u16] {
        match self {
            Self::Vxlan => &[4789, 8472],
            Self::VxlanGpe => &[4790],
            Self::Geneve => &[6081],
            Self::Lisp => &[4341],
            Self::Mpls => &[6635],
            Self::Tzsp => &[37008],
            Self::Gtp => &[2152],
            Self::L2tp => &[1701],
            Self::Capwap => &[5247],
            Self::Teredo => &[3544],
        }
    }

    /// Whether the port may be the sender's as well as the receiver's.
    const fn is_of_both_sides(self) -> bool {
        matches!(self, Self::Gtp | Self::L2tp | Self::Capwap | Self::Teredo)
    }
}

/// A port that cannot be added: there are [`MAX_TUNNEL_PORTS`] already, or another kind of tunnel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelPortError {
    /// There are too many ports.
    #[error("more than {MAX_TUNNEL_PORTS} ports of tunnels")]
    TooMany,
    /// Port and kind of another tunnel.
    #[error("port {0} is that of {1} already")]
    Taken(u16, &'static str),
}

/// Which tunnels a [`super::Decoder`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelSettings {
    /// Most tunnels within each other that are opened, up to [`MAX_TUNNEL_DEPTH`].
    depth: u8,
    /// Kinds that are not opened, as bits by the number of the kind.
    excluded: u32,
    /// Ports and their kinds, in the order of the ports; the first `len` are valid.
    ports: [(u16, UdpTunnel); MAX_TUNNEL_PORTS],
    len: usize,
    /// Which datagrams may have one of the ports.
    filter: PortFilter,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TunnelSettings {
    const NO_PORTS: [(u16, UdpTunnel); MAX_TUNNEL_PORTS] = [(0, UdpTunnel::Vxlan); MAX_TUNNEL_PORTS];

    /// All kinds at their default ports, to a depth of [`MAX_TUNNEL_DEPTH`].
    pub const DEFAULT: Self = {
        let mut settings =
            Self { depth: MAX_TUNNEL_DEPTH, excluded: 0, ports: Self::NO_PORTS, len: 0, filter: PortFilter::EMPTY };
        let mut kind = 0;
        while kind < UdpTunnel::ALL.len() {
            let ports = UdpTunnel::ALL[kind].default_ports();
            let mut at = 0;
            while at < ports.len() {
                settings = settings.with(UdpTunnel::ALL[kind], ports[at]);
                at += 1;
            }
            kind += 1;
        }
        settings
    };

    /// The same with another depth; more than [`MAX_TUNNEL_DEPTH`] is as much as that.
    #[must_use]
    pub const fn with_depth(self, depth: u8) -> Self {
        Self { depth: if depth < MAX_TUNNEL_DEPTH { depth } else { MAX_TUNNEL_DEPTH }, ..self }
    }

    /// The same without this kind.
    #[must_use]
    pub const fn without(self, kind: Tunnel) -> Self {
        Self { excluded: self.excluded | 1 << kind as u32, ..self }
    }

    /// The same without any port of this kind.
    #[must_use]
    pub fn without_ports(self, kind: UdpTunnel) -> Self {
        let none = Self { ports: Self::NO_PORTS, len: 0, filter: PortFilter::EMPTY, ..self };
        self.ports[..self.len].iter().filter(|(_, of)| *of != kind).fold(none, |settings, &(port, of)| settings.with(of, port))
    }

    /// The same with this port of this kind too.
    ///
    /// # Errors
    /// If there are too many ports, or another kind has this one.
    pub fn with_port(self, kind: UdpTunnel, port: u16) -> Result<Self, TunnelPortError> {
        match self.ports[..self.len].iter().find(|(of, _)| *of == port) {
            Some(&(_, other)) if other == kind => Ok(self),
            Some(&(_, other)) => Err(TunnelPortError::Taken(port, other.name())),
            None if self.len == MAX_TUNNEL_PORTS => Err(TunnelPortError::TooMany),
            None => Ok(self.with(kind, port)),
        }
    }

    /// The same with a port that no kind has. Ports stay in order, so that equal settings have equal fields.
    const fn with(mut self, kind: UdpTunnel, port: u16) -> Self {
        let mut at = self.len;
        while at > 0 && self.ports[at - 1].0 > port {
            self.ports[at] = self.ports[at - 1];
            at -= 1;
        }
        self.ports[at] = (port, kind);
        self.len += 1;
        self.filter = self.filter.with(port);
        self
    }

    /// Whether a tunnel of this kind is opened within `depth` others.
    pub(super) fn opens(&self, kind: Tunnel, depth: u8) -> bool {
        depth < self.depth && self.excluded >> kind as u32 & 1 == 0
    }

    /// Most tunnels within each other that are opened.
    pub(super) fn depth(&self) -> u8 {
        self.depth
    }

    /// Whether a datagram with one of these ports may be a tunnel.
    #[inline]
    pub(super) fn may_be(&self, source: u16, destination: u16) -> bool {
        self.filter.may_contain(source) || self.filter.may_contain(destination)
    }

    /// The kind of tunnel of a datagram with these ports; that of the receiver's port first.
    pub(super) fn of_ports(&self, source: u16, destination: u16) -> Option<UdpTunnel> {
        let of = |port: u16| self.ports[..self.len].iter().find(|(of, _)| *of == port).map(|&(_, kind)| kind);
        if !self.may_be(source, destination) {
            return None;
        }
        of(destination).or_else(|| of(source).filter(|kind| kind.is_of_both_sides()))
    }
}

/// UDP ports as a set that may hold others too: bits by a port's last digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PortFilter([u64; Self::WORDS]);

impl PortFilter {
    const WORDS: usize = 16;
    const EMPTY: Self = Self([0; Self::WORDS]);

    const fn with(mut self, port: u16) -> Self {
        self.0[port as usize / 64 % Self::WORDS] |= 1 << (port % 64);
        self
    }

    #[inline]
    fn may_contain(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64 % Self::WORDS] >> (port % 64) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_added_removed_and_belong_to_one_kind() {
        let settings = TunnelSettings::DEFAULT;
        assert_eq!(settings.of_ports(50_000, 8472), Some(UdpTunnel::Vxlan));
        assert_eq!((settings.of_ports(4789, 53), settings.of_ports(2152, 53)), (None, Some(UdpTunnel::Gtp)));
        let settings = settings.with_port(UdpTunnel::Vxlan, 9000).unwrap();
        assert_eq!(settings.of_ports(1, 9000), Some(UdpTunnel::Vxlan));
        assert_eq!(settings.with_port(UdpTunnel::Geneve, 9000), Err(TunnelPortError::Taken(9000, "vxlan")));
        let settings = settings.without_ports(UdpTunnel::Vxlan);
        assert_eq!([4789, 8472, 9000, 6081].map(|port| settings.of_ports(1, port)), [None, None, None, Some(UdpTunnel::Geneve)]);
        let full = (1..=100).try_fold(settings, |settings, port| settings.with_port(UdpTunnel::Vxlan, port));
        assert_eq!(full, Err(TunnelPortError::TooMany));
    }

    #[test]
    fn the_filter_may_hold_other_ports_and_lacks_none() {
        let settings = TunnelSettings::DEFAULT;
        for port in 0..=u16::MAX {
            assert!(settings.may_be(port, 0) || settings.of_ports(port, 0).is_none());
        }
        assert!(settings.may_be(4789 + 1024, 0) && !settings.may_be(443, 53));
    }
}
