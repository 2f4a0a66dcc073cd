//! A signed checkpoint: "at this position the chain had this hash", by a key that PostgreSQL never sees. A superuser can
//! write a log anew, not yesterday's signature.

use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey};
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::chain::Hash;

/// A key file is shorter than this.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// A checkpoint as it is written to a file and shown by the API. The same position, hash and key always make the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// Of the event.
    pub position: i64,
    /// The chain's hash there, in hexadecimal.
    pub hash: String,
    /// When that event was recorded.
    pub time: DateTime<Utc>,
    /// The ed25519 key that signed, its 32 bytes in hexadecimal.
    pub public_key: String,
    /// Its signature of [`Checkpoint::message`], 64 bytes in hexadecimal.
    pub signature: String,
}

impl Checkpoint {
    /// What is signed: four lines, each ended by a line feed.
    #[must_use]
    pub fn message(position: i64, hash: &str, time: DateTime<Utc>) -> String {
        let time = time.to_rfc3339_opts(SecondsFormat::Micros, true);
        format!("featbit-tokens checkpoint v1\n{position}\n{hash}\n{time}\n")
    }

    /// The hash's bytes; none where they are none.
    #[must_use]
    pub fn hash(&self) -> Option<Hash> {
        hex::decode(&self.hash).ok()?.try_into().ok()
    }

    /// What its file is called: in the order of positions, and another for another hash or key.
    #[must_use]
    pub fn file_name(&self) -> String {
        let short = |text: &str| text.chars().take(8).collect::<String>();
        let (hash, key) = (short(&self.hash), short(&self.public_key));
        format!("{:019}-{hash}-{key}.json", self.position)
    }
}

/// Why a key can't be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file.
    #[error("{path} can't be read")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it.
    #[error("{0} holds no ed25519 {1} in PEM")]
    NoKey(String, &'static str),
}

/// What signs. It can't be printed, and is wiped from memory at the end.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The private key in a PEM file, PKCS #8, as `openssl genpkey -algorithm ed25519` makes it.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        ed25519_dalek::SigningKey::from_pkcs8_pem(&contents(path)?)
            .map(Self)
            .map_err(|_| KeyError::NoKey(path.display().to_string(), "private key"))
    }

    /// One made of these 32 random bytes, and the PEM file that holds it.
    ///
    /// # Errors
    /// Where it can't be written as PEM.
    pub fn from_random(bytes: &[u8; 32]) -> Result<(Self, zeroize::Zeroizing<String>), KeyError> {
        let key = ed25519_dalek::SigningKey::from_bytes(bytes);
        let pem = key
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|_| KeyError::NoKey("the new key".to_owned(), "private key"))?;
        Ok((Self(key), pem))
    }

    /// Signs.
    #[must_use]
    pub fn sign(&self, position: i64, hash: &Hash, time: DateTime<Utc>) -> Checkpoint {
        let hash = hex::encode(hash);
        let message = Checkpoint::message(position, &hash, time);
        Checkpoint {
            position,
            time,
            public_key: self.public_key(),
            signature: hex::encode(self.0.sign(message.as_bytes()).to_bytes()),
            hash,
        }
    }

    /// The public half, 32 bytes in hexadecimal.
    #[must_use]
    pub fn public_key(&self) -> String {
        hex::encode(self.0.verifying_key().as_bytes())
    }

    /// Who believes this key.
    #[must_use]
    pub fn verifying(&self) -> VerifyingKeys {
        VerifyingKeys(vec![self.0.verifying_key()])
    }
}

/// Whose signatures are believed.
#[derive(Clone, Debug)]
pub struct VerifyingKeys(Vec<VerifyingKey>);

impl VerifyingKeys {
    /// The keys in PEM files, public or private.
    ///
    /// # Errors
    /// [`KeyError`] of the first that can't be used.
    pub fn read<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for path in paths {
            let text = contents(path)?;
            let private = || ed25519_dalek::SigningKey::from_pkcs8_pem(&text).map(|key| key.verifying_key());
            let key = VerifyingKey::from_public_key_pem(&text)
                .ok()
                .or_else(|| private().ok());
            keys.push(key.ok_or_else(|| KeyError::NoKey(path.display().to_string(), "key"))?);
        }
        Ok(Self(keys))
    }

    /// Whether one of them has signed this.
    #[must_use]
    pub fn have_signed(&self, checkpoint: &Checkpoint) -> bool {
        let signature = hex::decode(&checkpoint.signature)
            .ok()
            .and_then(|bytes| Signature::from_slice(&bytes).ok());
        let Some(signature) = signature else {
            return false;
        };
        let message = Checkpoint::message(checkpoint.position, &checkpoint.hash, checkpoint.time);
        self.0.iter().any(|key| {
            hex::encode(key.as_bytes()) == checkpoint.public_key
                && key.verify_strict(message.as_bytes(), &signature).is_ok()
        })
    }
}

fn contents(path: &Path) -> Result<zeroize::Zeroizing<String>, KeyError> {
    use std::io::Read;
    let read = || {
        let mut text = zeroize::Zeroizing::new(String::new());
        std::fs::File::open(path)?
            .take(MAX_KEY_FILE)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| KeyError::Unreadable {
        path: path.display().to_string(),
        source,
    })
}
