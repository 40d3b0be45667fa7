//! What the packets of live streams are wrapped in, for the events that report them.
//!
//! Most streams are in no tunnel, so this is beside their records. The number of streams in tunnels that are remembered is bounded. The stream
//! of an outer packet has the tunnels around that packet only: the outermost one has none.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::capture::Frame;
use crate::packet::{Address, Decoder, Direction, Headers, MAX_TUNNEL_DEPTH, StreamKey, Tunnel};
use crate::stream::Stream;

/// Streams in tunnels that are remembered, as a share of all streams: 1 in this many, at least [`MIN_STREAMS`].
const SHARE: usize = 16;
const MIN_STREAMS: usize = 1024;

/// Address and port of one end of the outermost IP packet.
pub type OuterEnd = (Address, Option<u16>);

/// The tunnels around the packets of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterHeaders {
    /// Kinds, outermost first; valid up to `depth`.
    kinds: [Tunnel; MAX_TUNNEL_DEPTH as usize],
    depth: u8,
    /// Flow of the outermost IP packet, and the direction in it of packets in the stream's own direction; `None` if there is none, as
    /// around an Ethernet frame within another.
    flow: Option<(StreamKey, Direction)>,
}

impl OuterHeaders {
    /// What the packet of a frame that has these headers is wrapped in; `own`: it goes in its stream's own direction. `None` if it is in no
    /// tunnel.
    pub fn of(decoder: &Decoder, headers: &Headers, frame: &Frame<'_>, own: bool) -> Option<Self> {
        let depth = headers.tunnel_depth;
        let flow = decoder.outer(frame.link, frame.bytes, depth).next().map(|outermost| {
            let (key, direction) = StreamKey::flow(&outermost, frame.bytes);
            (key, if own { direction } else { direction.reverse() })
        });
        (depth > 0).then_some(Self { kinds: headers.tunnels, depth, flow })
    }

    /// Kinds of tunnels, outermost first.
    pub fn kinds(&self) -> &[Tunnel] {
        &self.kinds[..usize::from(self.depth)]
    }

    /// Address and port of both ends of the outermost IP packet, and its protocol; first the end on the side of the stream's source. Ports
    /// are `None` for protocols without ports.
    pub fn ends(&self) -> Option<([OuterEnd; 2], String)> {
        let (key, direction) = self.flow?;
        let ends = key.ends(direction).map(|(address, port)| (address, key.has_ports().then_some(port)));
        Some((ends, key.proto_name().into_owned()))
    }
}

/// The tunnels of live streams, by the number of the stream's first frame and its key: several streams may begin with one frame.
pub(super) struct TunnelTable {
    streams: HashMap<(u64, StreamKey), OuterHeaders, RandomState>,
    most: usize,
}

impl TunnelTable {
    /// An empty table beside a table of `streams` streams.
    pub fn new(streams: usize) -> Self {
        Self { streams: HashMap::default(), most: (streams / SHARE).max(MIN_STREAMS) }
    }

    /// Remembers the tunnels of a stream. Returns whether there was room.
    pub fn insert<T>(&mut self, stream: &Stream<T>, tunnels: OuterHeaders) -> bool {
        let room = self.streams.len() < self.most;
        if room {
            self.streams.insert((stream.number, stream.key), tunnels);
        }
        room
    }

    /// The tunnels of a stream.
    pub fn get<T>(&self, stream: &Stream<T>) -> Option<&OuterHeaders> {
        if self.streams.is_empty() { None } else { self.streams.get(&(stream.number, stream.key)) }
    }

    /// Forgets the tunnels of a stream that has ended.
    pub fn remove<T>(&mut self, stream: &Stream<T>) {
        if !self.streams.is_empty() {
            self.streams.remove(&(stream.number, stream.key));
        }
    }
}
