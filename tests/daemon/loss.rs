//! Test of frame accounting at rates that exceed the daemon's capacity: each frame is received or counted as dropped. `benches/loss.rs`
//! measures the share received compared with tcpdump, which depends on the machine and its load.

use crate::common;
use crate::common::net::{Daemon, Net, counted};

#[test]
fn at_full_speed_every_frame_is_received_or_counted_as_dropped() {
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
