//! Checks of a model file before it runs: SHA-256, signature, and the name that was signed. The last good copy is checked again at each start.

use std::fs;
use std::io;
use std::path::PathBuf;

use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};

use crate::atomic_write::replace;
use crate::config::FleetConfig;
use crate::export::status::CanaryStatus;

use super::models::{ModelVersion, sha256};

/// Why a version was refused: the reason, for the metric, and the details.
#[derive(Debug)]
pub struct Refusal {
    /// Value of the label "reason".
    pub reason: &'static str,
    /// What is wrong.
    pub details: String,
}

impl Refusal {
    /// A refusal for a reason, with details.
    pub fn new(reason: &'static str, details: impl Into<String>) -> Self {
        Self { reason, details: details.into() }
    }

    /// Whether the same version may be accepted later.
    pub fn is_temporary(&self) -> bool {
        matches!(self.reason, "missing" | "reload" | "folder")
    }
}

/// The public keys that may sign models.
pub struct TrustedKeys(Vec<PublicKey>);

impl TrustedKeys {
    /// The keys of the settings.
    ///
    /// # Errors
    /// One is not a valid key.
    pub fn new(config: &FleetConfig) -> io::Result<Self> {
        let keys: Result<_, _> = config.trusted_keys.iter().map(|key| PublicKey::from_base64(key)).collect();
        keys.map(Self).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
    }

    /// Checks that bytes are those of a version of the model `name`, and that one of the keys has signed them under this name.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self, name: &str, version: &ModelVersion, bytes: &[u8]) -> Result<(), Refusal> {
        let sum = sha256(bytes);
        if sum != version.sha256 {
            return Err(Refusal::new("checksum", format!("SHA-256 is {sum}, not {}", version.sha256)));
        }
        let Some(text) = &version.signature else { return Err(Refusal::new("unsigned", "it has no signature")) };
        let signature = Signature::decode(text).map_err(|error| Refusal::new("signature", error.to_string()))?;
        // The trusted comment is part of what is signed, and is read only after this.
        if !self.0.iter().any(|key| key.verify(bytes, &signature, false).is_ok()) {
            return Err(Refusal::new("signature", "no key of fleet.trusted_keys made its signature"));
        }
        signed_name(&signature, name).map_err(|details| Refusal::new("signature", details))
    }
}

/// Checks that a signature was made for the file of the model `name`. minisign writes `file:NAME` into the trusted comment; a comment of the
/// user's own (`minisign -t`) need not have it and then binds no name.
///
/// # Errors
/// The signature was made for another file: a message that names it.
pub fn signed_name(signature: &Signature, name: &str) -> Result<(), String> {
    let signed = signature.trusted_comment().split('\t').find_map(|part| part.strip_prefix("file:"));
    match signed.map(|file| file.rsplit('/').next().unwrap_or(file)) {
        Some(file) if file.strip_suffix(".safetensors") != Some(name) => {
            Err(format!("the signature is for the file {file}, not for {name}.safetensors"))
        }
        _ => Ok(()),
    }
}

/// Path of a model's last good copy ("safetensors") or of its record ("json").
pub fn copy_path(config: &FleetConfig, name: &str, extension: &str) -> PathBuf {
    config.model_folder.clone().unwrap_or_default().join(format!("{name}.{extension}"))
}

/// The last good copy of a model: its record and the file's bytes; `None`: there is none.
///
/// # Errors
/// The file or its record can't be read, or the file does not pass the checks that it passed when it was installed.
pub fn good_copy(config: &FleetConfig, name: &str) -> Result<Option<(ModelVersion, Vec<u8>)>, Refusal> {
    let folder = |error: io::Error| Refusal::new("folder", error.to_string());
    let bytes = match fs::read(copy_path(config, name, "safetensors")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(folder)?,
    };
    let record = fs::read(copy_path(config, name, "json")).map_err(folder)?;
    let version: ModelVersion = serde_json::from_slice(&record).map_err(|error| folder(error.into()))?;
    TrustedKeys::new(config).map_err(folder)?.verify(name, &version, &bytes)?;
    Ok(Some((version, bytes)))
}

/// A version that the canary has refused, in the file `MODEL.refused.json` beside the last good copy.
#[derive(Serialize, Deserialize)]
pub(super) struct CanaryRefusal {
    pub version: ModelVersion,
    /// Why it was refused.
    pub error: String,
    pub canary: CanaryStatus,
}

/// A refusal and the settings by which it was made: others may not refuse.
#[derive(Serialize, Deserialize)]
struct StoredRefusal {
    #[serde(flatten)]
    refusal: CanaryRefusal,
    max_loss: f64,
    min_streams: u64,
}

const REFUSED: &str = "refused.json";

impl CanaryRefusal {
    /// The refusal of a model; `None`: there is none that was made by these settings.
    pub fn read(config: &FleetConfig, name: &str) -> Option<Self> {
        let bytes = fs::read(copy_path(config, name, REFUSED)).ok()?;
        let stored: StoredRefusal = serde_json::from_slice(&bytes).ok()?;
        let same = stored.max_loss == config.canary.max_loss && stored.min_streams == config.canary.min_streams;
        same.then_some(stored.refusal)
    }

    /// Writes the refusal.
    pub fn write(self, config: &FleetConfig, name: &str) -> io::Result<()> {
        let (max_loss, min_streams) = (config.canary.max_loss, config.canary.min_streams);
        let text = serde_json::to_vec_pretty(&StoredRefusal { refusal: self, max_loss, min_streams })?;
        replace(&copy_path(config, name, REFUSED), 0o644, &text)
    }

    /// Removes the refusal of a model, if there is one: another version runs.
    pub fn remove(config: &FleetConfig, name: &str) {
        let _ = fs::remove_file(copy_path(config, name, REFUSED));
    }
}
