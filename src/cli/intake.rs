//! Options for how packets are read and become streams, the same in all commands that read captures: a model learns what `spiked read`
//! classifies.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;

use crate::packet::{Decoder, MAX_TUNNEL_DEPTH, Tunnel, TunnelSettings, UdpTunnel};
use crate::stream::Intake;

/// Options for how packets are read and become streams
#[derive(ClapArgs, Clone, Debug, Default, PartialEq)]
pub struct IntakeOptions {
    /// Does not decapsulate tunnels (GRE, VXLAN, GTP-U, IP-in-IP and others)
    #[arg(long, help_heading = "Packets and streams")]
    no_tunnels: bool,
    /// Opens at most N tunnels within each other [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=i64::from(MAX_TUNNEL_DEPTH)), conflicts_with = "no_tunnels", help_heading = "Packets and streams")]
    tunnel_depth: Option<u8>,
    /// Does not open tunnels of these kinds: gre, vxlan, geneve, gtp, teredo, ip-in-ip and others, see tunnels.exclude in spiked.toml
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = tunnel_kind, help_heading = "Packets and streams")]
    exclude_tunnel: Vec<Tunnel>,
    /// Opens tunnels at another UDP port too, such as vxlan=9000; kinds: vxlan, vxlan-gpe, geneve, lisp, mpls, tzsp, gtp, l2tp, capwap,
    /// teredo
    #[arg(long, value_name = "KIND=PORT", value_parser = tunnel_port, help_heading = "Packets and streams")]
    tunnel_port: Vec<(UdpTunnel, u16)>,
    /// Leaves VLANs out of the key of streams: packets with the same addresses and ports are one stream in whichever VLAN they are
    #[arg(long, help_heading = "Packets and streams")]
    ignore_vlan: bool,
    /// Makes packets of different interfaces different streams, whatever their addresses and ports: interfaces that are listened on, and
    /// those that a pcapng file names
    #[arg(long, help_heading = "Packets and streams")]
    interface_in_key: bool,
    /// Leaves out copies of one of the 5 frames before, as editcap -d: equal but for VLAN tags, at most 50 ms apart. For mirror ports; a
    /// flood of identical packets loses most of them too
    #[arg(long, help_heading = "Packets and streams")]
    drop_duplicates: bool,
}

/// The value of `--exclude-tunnel`.
fn tunnel_kind(name: &str) -> Result<Tunnel, String> {
    Tunnel::from_name(name).ok_or_else(|| format!("not a valid kind of tunnel; give one of {}", Tunnel::names()))
}

/// The value of `--tunnel-port`.
fn tunnel_port(argument: &str) -> Result<(UdpTunnel, u16), String> {
    let (name, port) = argument.split_once('=').ok_or("has no '='; give KIND=PORT, such as vxlan=9000")?;
    let names = || UdpTunnel::ALL.map(UdpTunnel::name).join(", ");
    let kind =
        UdpTunnel::from_name(name).ok_or_else(|| format!("'{name}' is not a valid kind of tunnel; give one of {}", names()))?;
    let port = port.parse().ok().filter(|&port| port > 0).ok_or_else(|| format!("'{port}' is out of range (1 to 65535)"))?;
    Ok((kind, port))
}

impl IntakeOptions {
    /// The intake that the options choose.
    ///
    /// # Errors
    /// There are too many tunnel ports.
    pub fn intake(&self) -> Result<Intake> {
        let depth = if self.no_tunnels { 0 } else { self.tunnel_depth.unwrap_or(MAX_TUNNEL_DEPTH) };
        let settings = self.exclude_tunnel.iter().fold(TunnelSettings::DEFAULT, |settings, &kind| settings.without(kind));
        let ports = self.tunnel_port.iter().try_fold(settings, |settings, &(kind, port)| settings.with_port(kind, port));
        Ok(Intake {
            decoder: Decoder::with_tunnels(ports.context("--tunnel-port")?.with_depth(depth)),
            vlan_in_key: !self.ignore_vlan,
            interface_in_key: self.interface_in_key,
            drop_duplicates: self.drop_duplicates,
        })
    }

    /// The same without interfaces in the key: for a stream that was found by a key without one.
    #[must_use]
    pub fn without_interface(self) -> Self {
        Self { interface_in_key: false, ..self }
    }
}

/// Whether a path can be read again: a file or folder, not standard input, a pipe or a device.
pub fn is_file(path: &Path) -> bool {
    path.as_os_str() != "-" && std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() || metadata.is_dir())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Every command, with its path.
    fn commands(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            found.push((path.clone(), sub.clone()));
            commands(sub, &path, found);
        }
    }

    /// What a user sees of an option.
    fn shown(arg: &clap::Arg) -> String {
        let defaults = arg.get_default_values();
        format!("{:?} {:?} {:?} {defaults:?}", arg.get_help().map(ToString::to_string), arg.get_value_names(), arg.get_num_args())
    }

    #[test]
    fn commands_that_read_captures_agree_on_how() {
        let mut all = Vec::new();
        commands(&crate::cli::Cli::command(), "", &mut all);
        let options = IntakeOptions::augment_args(clap::Command::new("intake"));
        let options: Vec<clap::Arg> = options.get_arguments().cloned().collect();
        assert_eq!(options.len(), 7);
        let of = |command: &clap::Command, id: &str| command.get_arguments().find(|arg| arg.get_id() == id).map(shown);
        let mut complete = Vec::new();
        for (path, command) in &all {
            let count = options.iter().filter(|option| of(command, option.get_id().as_str()).is_some()).count();
            assert!(count == 0 || count == options.len(), "{path} has {count} of {} options", options.len());
            if count > 0 {
                complete.push(path.as_str());
                for option in &options {
                    assert_eq!(of(command, option.get_id().as_str()), Some(shown(option)), "{path} {}", option.get_id());
                }
            }
        }
        for path in
            ["read", "top", "train", "learn", "eval", "report", "features", "model explain", "model calibrate", "model join"]
        {
            assert!(complete.contains(&path), "{path} reads captures in a way of its own; {complete:?} do not");
        }
        let defaults = IntakeOptions::default().intake().expect("the defaults are valid");
        assert_eq!(format!("{defaults:?}"), format!("{:?}", Intake::default()), "training and reading by default");
    }
}
