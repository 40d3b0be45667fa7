//! How is an interface opened? One libpcap handle, and with several capture threads the kernel's flow fan-out.

use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap::{Active, Capture, Precision};

use super::InterfaceSettings;
use crate::capture::{CaptureError, LinkType, Nanos};

/// An open interface.
pub(super) struct Socket {
    pub capture: Capture<Active>,
    pub link: LinkType,
    /// Frames of this time came when the socket was open and not yet in its fan-out group: another socket has them.
    pub joining: Range<Nanos>,
}

/// Now, by the wall clock.
pub(super) fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Opens an interface.
///
/// # Errors
/// It is not there, or it must not be opened, or the filter has no sense on its link type.
pub(super) fn open(interface: &InterfaceSettings, batch: Duration) -> Result<Socket, CaptureError> {
    let broken = |error: pcap::Error| trouble(&interface.name, &error);
    let millis = i32::try_from(batch.as_millis()).unwrap_or(i32::MAX).max(1);
    let opened = now();
    let capture = Capture::from_device(interface.name.as_str())
        .map_err(broken)?
        // On all interfaces at once there is no promiscuous mode, and libpcap warns of it.
        .promisc(interface.promiscuous && interface.name != "any")
        .snaplen(i32::try_from(interface.snap_length).unwrap_or(i32::MAX))
        .buffer_size(i32::try_from(u64::from(interface.buffer_mib) << 20).unwrap_or(i32::MAX))
        .timeout(millis)
        .precision(Precision::Nano)
        .open()
        .map_err(broken)?;
    let mut capture = capture.setnonblock().map_err(broken)?;
    if let Some(filter) = &interface.filter {
        capture.filter(filter, true).map_err(|why| CaptureError::Filter { expression: filter.clone(), why: why.to_string() })?;
    }
    let link = LinkType(u16::try_from(capture.get_datalink().0).unwrap_or(u16::MAX));
    let mut joining = Nanos(0)..Nanos(0);
    if interface.threads > 1 {
        fan_out(&capture, interface)?;
        joining = opened..now();
    }
    Ok(Socket { capture, link, joining })
}

pub(super) fn trouble(name: &str, error: &pcap::Error) -> CaptureError {
    let (name, why) = (name.to_string(), error.to_string());
    let why = why.trim_start_matches("libpcap error: ").trim_start_matches(&format!("{name}: ")).to_string();
    if why.contains("permission") || why.contains("not permitted") {
        CaptureError::Privilege { name, why }
    } else {
        CaptureError::Interface { name, why }
    }
}

/// Joins the group of sockets among which the kernel shares out the interface's flows.
#[expect(unsafe_code, reason = "a socket option that the pcap crate has no call for")]
fn fan_out(capture: &Capture<Active>, interface: &InterfaceSettings) -> Result<(), CaptureError> {
    // The group's number is the network namespace's: the process and the interface make it ours.
    let name = interface.name.bytes().fold(0u32, |hash, octet| hash.wrapping_mul(31).wrapping_add(u32::from(octet)));
    let group = (std::process::id() ^ name) & 0xffff;
    let argument: u32 = group | (libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_DEFRAG) << 16;
    // SAFETY: the descriptor is open as long as `capture` is borrowed; the option's value is four octets of our own that the
    // kernel only reads during the call.
    let done = unsafe {
        libc::setsockopt(
            capture.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            std::ptr::from_ref(&argument).cast(),
            size_of_val(&argument) as libc::socklen_t,
        )
    };
    if done == 0 {
        return Ok(());
    }
    let why = format!("can't share out its flows among {} threads: {}", interface.threads, std::io::Error::last_os_error());
    Err(CaptureError::Interface { name: interface.name.clone(), why })
}
