//! TaZmen Sniffer Protocol: frames that wireless sensors and MikroTik routers mirror over UDP.

use super::inner::{Inner, Opened, Unopened, be16, byte, bytes, require};
use super::wifi;

const VERSION: u8 = 1;
/// Types of messages that carry a frame: received, and to be transmitted.
const FRAMES: [u8; 2] = [0, 1];
const HEADER_LEN: usize = 4;
/// Encapsulated protocols.
const ETHERNET: u16 = 1;
const WIFI: u16 = 18;
const PRISM: u16 = 119;
const AVS: u16 = 127;
/// Tags without a length.
const TAG_PADDING: u8 = 0;
const TAG_END: u8 = 1;
/// Most tags that are followed.
const MAX_TAGS: usize = 64;

/// What a TZSP header at `at` carries.
pub(super) fn tzsp(frame: &[u8], at: usize) -> Opened {
    let [version, kind] = bytes(frame, at)?;
    require(version == VERSION && FRAMES.contains(&kind))?;
    let (protocol, mut next) = (be16(frame, at + 2)?, at + HEADER_LEN);
    for _ in 0..MAX_TAGS {
        match byte(frame, next)? {
            TAG_PADDING => next += 1,
            TAG_END => {
                return match protocol {
                    ETHERNET => Inner::ethernet(frame, next + 1),
                    WIFI => wifi::wifi(frame, next + 1),
                    PRISM => wifi::prism(frame, next + 1),
                    AVS => wifi::avs(frame, next + 1),
                    _ => Err(Unopened::NoPacket),
                };
            }
            _ => next += 2 + usize::from(byte(frame, next + 1)?),
        }
    }
    Err(Unopened::NoPacket)
}
