//! The account of frames at rates beyond what the daemon keeps up with: each frame is received or counted as dropped. How many it receives
//! beside tcpdump is measured by `benches/loss.rs`, since it depends on the machine and on what else runs there.

use crate::common;
use crate::common::net::{Daemon, Net, counted};

#[test]
fn flat_out_every_frame_is_received_or_counted_as_dropped() {
    let Some(net) = Net::new() else { return };
    let capture = common::fixture("captures/mixed.pcapng");
    let mut daemon = Daemon::start(&net, &net.settings(&["b"], ""));
    let sent = net.replay("a", &capture, &["--preload-pcap", "--loop", "400", "--topspeed"]);
    let status = daemon.wait("all is counted", |s| {
        let (received, dropped) = counted(&s["interfaces"][0]);
        received + dropped >= sent
    });
    let (received, dropped) = counted(&status["interfaces"][0]);
    eprintln!("{sent} sent, {received} received, {dropped} dropped");
    assert_eq!(received + dropped, sent, "{}", status["interfaces"][0]);
    assert!(received > 0);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}
