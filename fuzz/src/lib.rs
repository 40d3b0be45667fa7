//! What must hold whatever the octets? One function a surface; libFuzzer calls them, and `tests/fuzz_replay.rs` with mutated fixtures.
//!
//! A function returns where all is well, refused input included, and panics where a promise is broken.

use std::io::{Read as _, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use spiked::capture::{CaptureFile, Filter, FrameBatch, LinkType, Source};
use spiked::config::Config;
use spiked::encode::{Context, Layout, LayoutOptions, MAX_ACTIVE, SILENT, Volley};
use spiked::export::Metrics;
use spiked::export::http::Server;
use spiked::export::status::Status;
use spiked::model::Model;
use spiked::packet::{Decoder, KeyKind, StreamKey};

mod peer;

pub use peer::agrees_with_etherparse;

/// A surface: its name, and what must hold there.
pub type Target = (&'static str, fn(&[u8]));

/// Every surface.
pub const TARGETS: [Target; 8] = [
    ("captures", captures),
    ("decoder", decoder),
    ("encoder", encoder),
    ("labels", labels),
    ("settings", settings),
    ("models", models),
    ("filters", filters),
    ("http", http),
];

/// The first link types: those of the captures at hand, and one that is not decoded.
const LINKS: [LinkType; 13] = [
    LinkType::NULL,
    LinkType::ETHERNET,
    LinkType::PPP,
    LinkType::DLT_RAW,
    LinkType::DLT_RAW_OPENBSD,
    LinkType::PPP_HDLC,
    LinkType::RAW,
    LinkType::LOOP,
    LinkType::LINUX_SLL,
    LinkType::USER0,
    LinkType::IPV4,
    LinkType::IPV6,
    LinkType::LINUX_SLL2,
];

fn link(byte: u8) -> LinkType {
    // Beyond the table by number: the registry ends below 300, so that the last bytes stand for steps of 8 numbers.
    LINKS.get(usize::from(byte)).copied().unwrap_or(LinkType(match byte {
        250..=255 => 250 + u16::from(byte - 250) * 8,
        byte => byte.into(),
    }))
}

/// Nanoseconds, link type, octets on the wire, octets.
type Read = (u64, u16, u32, Vec<u8>);

/// The frames and the cut of a capture. A small file must not ask for much: the frames of what was packed are bounded.
fn read(mut file: CaptureFile) -> (Vec<Read>, Option<String>) {
    let (mut frames, mut batch) = (Vec::new(), FrameBatch::new());
    while frames.len() < 10_000 && file.fill(&mut batch).expect("what was opened can be read") {
        assert!(batch.len() <= FrameBatch::CAPACITY);
        frames.extend(batch.iter().map(|f| (f.timestamp.0, f.link.0, f.wire_len, f.bytes.to_vec())));
    }
    (frames, file.truncation().map(ToString::to_string))
}

/// Capture files, plain and packed: streamed and memory-mapped reading find the same.
pub fn captures(octets: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(octets).expect("room for it");
    // Both from the file, whose time packets without one have.
    let streamed = CaptureFile::open_unmapped(file.path()).map(read);
    let mapped = CaptureFile::open(file.path()).map(read);
    assert_eq!(streamed.is_ok(), mapped.is_ok());
    if let (Ok(streamed), Ok(mapped)) = (streamed, mapped) {
        assert_eq!(streamed, mapped);
    }
}

/// Frames; the first octet chooses the link type. Offsets lie within the frame, keys can be told, etherparse says the same.
pub fn decoder(octets: &[u8]) {
    let Some((&first, frame)) = octets.split_first() else { return };
    let link = link(first);
    for open_tunnels in [false, true] {
        let Ok(headers) = Decoder::new(open_tunnels).decode(link, frame) else { continue };
        assert!(headers.payload_at as usize <= frame.len() && headers.payload_end as usize <= frame.len());
        assert!(headers.payload_at <= headers.payload_end || headers.payload(frame).is_empty());
        for kind in [KeyKind::Flow, KeyKind::Host] {
            for (key, _) in StreamKey::of(kind, &headers, frame).into_iter().flatten() {
                let _ = (key.addr_a(), key.addr_b(), key.proto_name(), key.community_id(0), key.flow_id(0));
            }
        }
    }
    agrees_with_etherparse(link, frame);
}

/// A layout, one for all inputs.
static LAYOUT: LazyLock<Layout> = LazyLock::new(|| Layout::headers(&LayoutOptions { payload: 24, ..LayoutOptions::default() }));

/// The encoder: slot values are octets or silent, inputs lie within the layout's, and as many as its contributors say.
pub fn encoder(octets: &[u8]) {
    let [first, direction, position, previous, frame @ ..] = octets else { return };
    let Ok(headers) = Decoder::default().decode(link(*first), frame) else { return };
    let layout = &*LAYOUT;
    let mut volley = Volley::default();
    let context = Context { direction: direction & 1, position: *position, previous: *previous };
    layout.encode(&headers, frame, context, &spiked::trace::TraceValues::NONE, &mut volley);
    assert!(volley.slots[..layout.slots().len()].iter().all(|&v| v <= 0xff || v == SILENT));
    let mut active = [0; MAX_ACTIVE];
    let count = layout.inputs(&volley, &mut active);
    assert!(active[..count].iter().all(|&i| (i as usize) < layout.input_count()));
    let contributed: usize = layout.contributors().map(|(_, at)| layout.inputs_of(&volley, at).len()).sum();
    assert_eq!(contributed, count);
}

/// Label files: refused with the file's name, or read into classes that all its streams have.
pub fn labels(octets: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(octets).expect("room for it");
    match spiked::train::labels::read(&[file.path().into()]) {
        Ok(labels) => {
            let classes = labels.captures.iter().flat_map(|(_, c)| c.streams.values());
            assert!(classes.into_iter().all(|&c| usize::from(c) < labels.classes.len()));
            assert!(labels.classes.is_sorted() && labels.rows > 0);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Settings: every mistake in words, or settings.
pub fn settings(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    if let Err(error) = Config::from_text(Path::new("fuzz.toml"), &text, &[]) {
        assert!(error.to_string().contains("fuzz.toml"), "{error}");
    }
}

/// Models: refused, or such as score a packet and come back whole from their own octets.
pub fn models(octets: &[u8]) {
    let Ok(model) = Model::from_bytes(octets, Path::new("fuzz.safetensors")) else { return };
    let mut frame = [0; 90];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[23] = 6;
    let headers = Decoder::default().decode(LinkType::ETHERNET, &frame).expect("Ethernet");
    let (mut volley, mut active) = (Volley::default(), [0; MAX_ACTIVE]);
    model.layout.encode(&headers, &frame, Context::first(0), &spiked::trace::TraceValues::NONE, &mut volley);
    let count = model.layout.inputs(&volley, &mut active);
    let mut potentials = model.network.buffer();
    model.network.potentials(&active[..count], &mut potentials);
    let mut evidence = vec![0.0; model.classes.len()];
    if let Some(leader) = model.decision.accumulate(&model.network, &potentials, &mut evidence, None, true) {
        let _ = (model.decision.settled(&leader), model.decision.class(&leader), model.decision.confidence(&leader));
    }
    let again = Model::from_bytes(&model.to_bytes(), Path::new("fuzz.safetensors")).expect("its own octets");
    assert_eq!(again.classes, model.classes);
}

/// The words of BPF expressions; any other is a name, which would be looked up in the network.
const WORDS: &str = "ah and arp atalk broadcast decnet dst esp ether fddi gateway geneve greater host icmp icmp6 icmpcode icmptype \
    icmp6type igmp igrp inbound ip ip6 ipx iso lat len less link llc mask moprc mpls multicast net netbeui not or outbound \
    pim port portrange pppoed pppoes proto protochain radio rarp sctp slip src stp syn tcp tcpflags tr type udp vlan vrrp \
    wlan";

/// BPF expressions, before a zero octet; after it a frame that they are asked about.
pub fn filters(octets: &[u8]) {
    let end = octets.iter().position(|&b| b == 0).unwrap_or(octets.len());
    let Ok(expression) = std::str::from_utf8(&octets[..end]) else { return };
    let number = |word: &str| word.bytes().all(|b| b.is_ascii_digit()) || word.strip_prefix("0x").is_some_and(|w| w.len() < 9);
    let mut words = expression.split(|c: char| !c.is_alphanumeric());
    if expression.len() > 500 || !words.all(|word| number(word) || WORDS.split(' ').any(|w| w == word)) {
        return;
    }
    let Ok(mut filter) = Filter::new(expression) else { return };
    let frame = octets.get(end + 1..).unwrap_or(&[]);
    for link in LINKS {
        filter.admits(link, frame);
    }
}

/// The daemon's server, one for all inputs.
static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let metrics = Arc::new(Metrics::new(Arc::new(|| Status::new("fuzz"))));
    Server::start("127.0.0.1:0".parse().expect("an address"), metrics).expect("a port and a thread")
});

/// What a client sends: it is answered in HTTP or hung up on, in time, and the server goes on.
pub fn http(octets: &[u8]) {
    let ask = |octets: &[u8]| {
        let mut client = TcpStream::connect(SERVER.address()).expect("a connection");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        // The server may hang up before it has heard all.
        let _ = client.write_all(octets);
        let _ = client.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        match client.read_to_end(&mut answer) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("no answer and no end: {error}"),
            _ => answer,
        }
    };
    let answer = ask(octets);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    let healthy = ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(healthy.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&healthy));
}
