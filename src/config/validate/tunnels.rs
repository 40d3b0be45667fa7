//! Validation of `[tunnels]`.

use toml::Spanned;

use super::Check;
use crate::config::raw::{Maybe, RawTunnels};
use crate::packet::{MAX_TUNNEL_DEPTH, Tunnel, TunnelSettings, UdpTunnel};

impl Check {
    pub(super) fn tunnels(&mut self, typed: &RawTunnels) -> TunnelSettings {
        let depth = self.number("tunnels.depth", &typed.depth, MAX_TUNNEL_DEPTH, 0..=MAX_TUNNEL_DEPTH, "tunnels");
        let mut settings = TunnelSettings::DEFAULT.with_depth(depth);
        for name in typed.exclude.iter().flat_map(|names| names.get_ref()) {
            match Tunnel::from_name(name.get_ref()) {
                Some(kind) => settings = settings.without(kind),
                None => {
                    let what = format!("tunnels.exclude = '{}' is not a valid kind of tunnel; give some of ", name.get_ref());
                    self.wrong(name.span().start, what + &Tunnel::names());
                }
            }
        }
        let ports = [
            (UdpTunnel::Vxlan, "vxlan_ports", &typed.vxlan_ports),
            (UdpTunnel::VxlanGpe, "vxlan_gpe_ports", &typed.vxlan_gpe_ports),
            (UdpTunnel::Geneve, "geneve_ports", &typed.geneve_ports),
            (UdpTunnel::Lisp, "lisp_ports", &typed.lisp_ports),
            (UdpTunnel::Mpls, "mpls_ports", &typed.mpls_ports),
            (UdpTunnel::Tzsp, "tzsp_ports", &typed.tzsp_ports),
            (UdpTunnel::Gtp, "gtp_ports", &typed.gtp_ports),
            (UdpTunnel::L2tp, "l2tp_ports", &typed.l2tp_ports),
            (UdpTunnel::Capwap, "capwap_ports", &typed.capwap_ports),
            (UdpTunnel::Teredo, "teredo_ports", &typed.teredo_ports),
        ];
        // All defaults that are replaced go first, so that kinds may exchange their ports.
        for (kind, _, _) in ports.iter().filter(|(_, _, typed)| typed.is_some()) {
            settings = settings.without_ports(*kind);
        }
        for (kind, key, typed) in ports {
            settings = self.tunnel_ports(settings, kind, key, typed);
        }
        settings
    }

    fn tunnel_ports(
        &mut self,
        mut settings: TunnelSettings,
        kind: UdpTunnel,
        key: &str,
        typed: &Maybe<Vec<Spanned<i64>>>,
    ) -> TunnelSettings {
        for number in typed.iter().flat_map(|ports| ports.get_ref()) {
            let port = u16::try_from(*number.get_ref()).ok().filter(|&port| port > 0);
            let added = port.map(|port| settings.with_port(kind, port));
            match added {
                Some(Ok(with)) => settings = with,
                Some(Err(error)) => self.wrong(number.span().start, format!("tunnels.{key}: {error}")),
                None => {
                    self.wrong(number.span().start, format!("tunnels.{key} = {} is out of range (1 to 65535)", number.get_ref()));
                }
            }
        }
        settings
    }
}
