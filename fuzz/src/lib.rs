//! What must hold whatever the octets? One function a surface; libFuzzer calls them, and `tests/fuzz_replay.rs` with mutated fixtures.
//!
//! A function returns where all is well, refused input included, and panics where a promise is broken.

use std::io::{Cursor, Read as _, Write};
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

/// The first link types are those of the captures at hand, and one that is not decoded, so that seeds keep their meaning.
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
