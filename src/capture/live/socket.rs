//! Opening of an interface: a libpcap handle and, with several capture threads, the kernel's flow fan-out.

use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use caps::{CapSet, Capability};
use pcap::{Active, Capture, Precision};

use super::settings::InterfaceSettings;
use crate::capture::{CaptureError, LinkType, Nanos};

/// An open interface.
pub(super) struct Socket {
    pub capture: Capture<Active>,
    pub link: LinkType,
    /// Frames with timestamps in this range arrived when the socket was open but not yet in its fan-out group, so that another socket
    /// has them too.
    pub joining: Range<Nanos>,
}

/// The wall-clock time.
pub(super) fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Opens an interface.
///
/// # Errors
/// If the interface does not exist or may not be opened, or the filter is invalid for its link type.
pub(super) fn open(interface: &InterfaceSettings, batch: Duration) -> Result<Socket, CaptureError> {
    let open_error = |error: pcap::Error| interface_error(&interface.name, &error);
    let millis = i32::try_from(batch.as_millis()).unwrap_or(i32::MAX).max(1);
    let opened = now();
    raise_net_raw();
    let capture = Capture::from_device(interface.name.as_str())
        .map_err(open_error)?
        // The pseudo-interface of all interfaces has no promiscuous mode; libpcap warns if it is requested.
        .promisc(interface.promiscuous && interface.name != "any")
        .snaplen(i32::try_from(interface.snap_length).unwrap_or(i32::MAX))
        .buffer_size(i32::try_from(u64::from(interface.buffer_mib) << 20).unwrap_or(i32::MAX))
        .timeout(millis)
        .precision(Precision::Nano)
        .open()
        .map_err(open_error)?;
    let mut capture = capture.setnonblock().map_err(open_error)?;
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

impl Socket {
    /// Whether the interface `name` is set up. Names that are not of network devices, such as "any", are always up.
    #[expect(unsafe_code, reason = "asks for the flags of an interface, which the pcap crate does not offer")]
    pub fn is_up(&self, name: &str) -> bool {
        // SAFETY: zero is a valid value of every field of the structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero, as the end of the name.
        for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        // SAFETY: the descriptor is open as long as `self` is borrowed. The pointer is to a local variable of the type that the call
        // reads and writes.
        let done = unsafe { libc::ioctl(self.capture.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) };
        // SAFETY: the call has filled in this field of the union, and any value of it is valid.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        done != 0 || i32::from(flags) & libc::IFF_UP != 0
    }
}

/// Makes NET_RAW effective if it is only permitted: by a file capability without the effective flag, with which the program also starts
/// where nobody may have the capability.
fn raise_net_raw() {
    let has = |set| caps::has_cap(None, set, Capability::CAP_NET_RAW).unwrap_or(false);
    if has(CapSet::Permitted) && !has(CapSet::Effective) {
        // If it fails, so does the opening, whose error is reported.
        let _ = caps::raise(None, CapSet::Effective, Capability::CAP_NET_RAW);
    }
}

/// Converts an error of libpcap on the interface `name`, without the prefixes that libpcap adds.
pub(super) fn interface_error(name: &str, error: &pcap::Error) -> CaptureError {
    let (name, why) = (name.to_string(), error.to_string());
    let why = why.trim_start_matches("libpcap error: ").trim_start_matches(&format!("{name}: ")).to_string();
    if why.contains("permission") || why.contains("not permitted") {
        CaptureError::Privilege { name, why }
    } else {
        CaptureError::Interface { name, why }
    }
}

/// Joins the group of sockets among which the kernel distributes the interface's flows (packet(7), PACKET_FANOUT).
#[expect(unsafe_code, reason = "sets a socket option that the pcap crate does not offer")]
fn fan_out(capture: &Capture<Active>, interface: &InterfaceSettings) -> Result<(), CaptureError> {
    // Group numbers are shared by the whole network namespace: process and interface make the number unique.
    let name = interface.name.bytes().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let group = (std::process::id() ^ name) & 0xffff;
    let argument: u32 = group | (libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_DEFRAG) << 16;
    // SAFETY: the descriptor is open as long as `capture` is borrowed. The pointer and the length describe `argument`, a local
    // variable that the kernel only reads, and only during the call.
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
    let why = format!("can't distribute its flows among {} threads: {}", interface.threads, std::io::Error::last_os_error());
    Err(CaptureError::Interface { name: interface.name.clone(), why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip::skip;

    #[test]
    fn a_capability_that_is_only_permitted_suffices() {
        // On a thread of its own, as capabilities are those of a thread.
        let opened = std::thread::spawn(|| {
            if !caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_RAW).expect("it can be asked") {
                return None;
            }
            caps::drop(None, CapSet::Effective, Capability::CAP_NET_RAW).expect("it can be dropped");
            Some(open(&InterfaceSettings::named("lo"), Duration::from_millis(10)).map(|_| ()))
        });
        match opened.join().expect("it does not panic") {
            Some(opened) => opened.expect("the capability is raised"),
            None => skip("root, to have a capability"),
        }
    }
}
