//! Signatures of models that the program itself publishes, with a key of minisign.

use std::io::Cursor;
use std::time::{SystemTime, UNIX_EPOCH};

use minisign::{PublicKey, SecretKey, SecretKeyBox};

/// A secret key.
pub struct SigningKey(SecretKey);

impl SigningKey {
    /// Reads the content of a secret key file, as `minisign -G` writes it; without a password, as `minisign -G -W` writes it.
    ///
    /// # Errors
    /// It is not a secret key, the password is wrong, or it needs one.
    pub fn new(text: &str, password: Option<String>) -> Result<Self, String> {
        let parsed = SecretKeyBox::from_string(text).map_err(|error| error.to_string())?;
        let key = match password {
            Some(password) => parsed.into_secret_key(Some(password)),
            None => parsed.into_unencrypted_secret_key(),
        };
        key.map(Self).map_err(|error| error.to_string())
    }

    /// Its public key in base64, as in `fleet.trusted_keys`.
    ///
    /// # Errors
    /// The secret key is not complete.
    pub fn public(&self) -> Result<String, String> {
        PublicKey::from_secret_key(&self.0).map(|key| key.to_base64()).map_err(|error| error.to_string())
    }

    /// The content of the signature file of the model `name`, which it names.
    ///
    /// # Errors
    /// The key can't sign.
    pub fn sign(&self, name: &str, bytes: &[u8]) -> Result<String, String> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let comment = format!("timestamp:{seconds}\tfile:{name}.safetensors\thashed");
        let signed = minisign::sign(None, &self.0, Cursor::new(bytes), Some(&comment), None);
        signed.map(|signature| signature.to_string()).map_err(|error| error.to_string())
    }
}
