//! What is read of a source: which tunnels are opened, whether copies are left out, and what is in the key of a stream besides addresses and
//! ports.

use std::path::Path;
use std::sync::Arc;

use crate::capture::{CaptureError, CaptureFile, Duplicates, Frame, InterfaceId};
use crate::packet::{Decoder, KeyKind, StreamKey};

/// How packets are read and become streams. Training and classification agree if theirs is equal.
#[derive(Clone, Copy, Debug)]
pub struct Intake {
    /// Decodes the frames.
    pub decoder: Decoder,
    /// Whether packets of different VLANs are of different flows.
    pub vlan_in_key: bool,
    /// Whether packets of different interfaces are of different flows.
    pub interface_in_key: bool,
    /// Whether copies of frames are left out, see [`Duplicates`].
    pub drop_duplicates: bool,
}

impl Default for Intake {
    /// All tunnels are opened; VLANs are in the key, and interfaces are not; copies are kept.
    fn default() -> Self {
        Self { decoder: Decoder::default(), vlan_in_key: true, interface_in_key: false, drop_duplicates: false }
    }
}

impl Intake {
    /// The key under which a packet's stream is known, from that of its addresses and ports, and the interface that it came in by.
    #[inline(always)]
    pub fn key(&self, key: StreamKey, interface: Option<InterfaceId>) -> StreamKey {
        if key.kind() == KeyKind::Host {
            return key;
        }
        let key = if self.vlan_in_key { key } else { key.without_vlan() };
        match interface.filter(|_| self.interface_in_key) {
            Some(interface) => key.on_interface(interface.index()),
            None => key,
        }
    }

    /// Keys of the streams that a frame is of; a later fragment has no ports in its key.
    pub fn keys(&self, kind: KeyKind, frame: &Frame<'_>) -> impl Iterator<Item = StreamKey> {
        let Frame { link, interface, bytes, .. } = *frame;
        let keys = move |headers| StreamKey::of(kind, &headers, bytes).into_iter().flatten();
        self.decoder.decode_all(link, bytes).flat_map(keys).map(move |(key, _)| self.key(key, interface))
    }

    /// Opens a capture, with the interfaces of its packets if they are in the key.
    ///
    /// # Errors
    /// As [`CaptureFile::open`].
    pub fn open(&self, path: &Path) -> Result<CaptureFile, CaptureError> {
        let file = CaptureFile::open(path)?;
        Ok(if self.interface_in_key { file.with_interfaces(&Arc::default()) } else { file })
    }

    /// Opens a capture as a source of all its frames, without copies if these are left out.
    ///
    /// # Errors
    /// As [`CaptureFile::open`].
    pub fn source(&self, path: &Path) -> Result<Duplicates<CaptureFile>, CaptureError> {
        Ok(Duplicates::new(self.open(path)?, self.drop_duplicates))
    }
}
