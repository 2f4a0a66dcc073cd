//! What FeatBit's JWTs are checked with: a shared key, or the public half of one. Refused where it would let others sign,
//! or not hold what it is said to hold. No message ever holds a key.

#[cfg(test)]
mod tests;

use std::path::Path;

use jsonwebtoken::{Algorithm, DecodingKey};
use p256::pkcs8::DecodePublicKey;
use pem::Pem;
use rsa::RsaPublicKey;
use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::traits::PublicKeyParts;

use super::{ConfigError, Environment, invalid};
use crate::http::JwtVerifier;

const KEY: &str = "JWT_KEY";
const PUBLIC_KEY_PATH: &str = "JWT_PUBLIC_KEY_PATH";
/// Bytes that a shared key has at least: HS256 is no stronger than its key.
const MIN_KEY: usize = 32;
/// Bits of an RSA modulus at least (NIST SP 800-131A, 2030 and before).
const MIN_RSA_BITS: usize = 2048;
/// Bits of an RSA modulus at most: what the verifier takes.
const MAX_RSA_BITS: usize = RsaPublicKey::MAX_SIZE;
/// The keys in FeatBit's published settings, compose files and sources: everybody can sign with them.
const PUBLISHED_KEYS: [&str; 3] = [
    "featbit-identity-key-must-longer-than-32-characters",
    "please_change_me_to_a_secure_secret_key",
    "this-identity-key-is-for-development-only",
];

/// The verifier that the environment describes.
pub(super) fn verifier(environment: &Environment) -> Result<JwtVerifier, ConfigError> {
    let (algorithm, key) = match environment.get("JWT_ALGORITHM").unwrap_or("HS256") {
        "HS256" => (Algorithm::HS256, shared_key(environment)?),
        "RS256" => (Algorithm::RS256, public_key(environment, rsa_key)?),
        "ES256" => (Algorithm::ES256, public_key(environment, p256_key)?),
        other => {
            return Err(invalid(
                "JWT_ALGORITHM",
                format!("{other} is none of HS256, RS256, ES256"),
            ));
        }
    };
    let issuer = environment.get("JWT_ISSUER").unwrap_or("featbit");
    let audience = environment.get("JWT_AUDIENCE").unwrap_or("featbit-api");
    Ok(JwtVerifier::new(algorithm, key, issuer, audience))
}

fn shared_key(environment: &Environment) -> Result<DecodingKey, ConfigError> {
    // Which of the two was meant? (The other way round the algorithm was named, and says it.)
    if environment.get(PUBLIC_KEY_PATH).is_some() {
        return Err(invalid(
            PUBLIC_KEY_PATH,
            "JWT_ALGORITHM HS256 takes JWT_KEY instead",
        ));
    }
    let key = environment.raw(KEY).ok_or(ConfigError::Missing(KEY))?;
    if PUBLISHED_KEYS.contains(&key.trim()) {
        return Err(invalid(
            KEY,
            "it is one of the keys that FeatBit publishes, so everybody can sign with it",
        ));
    }
    if key.len() < MIN_KEY {
        return Err(invalid(KEY, format!("it must have {MIN_KEY} bytes or more")));
    }
    Ok(DecodingKey::from_secret(key.as_bytes()))
}

fn public_key(
    environment: &Environment,
    parse: fn(&Pem) -> Result<DecodingKey, String>,
) -> Result<DecodingKey, ConfigError> {
    let path = environment
        .get(PUBLIC_KEY_PATH)
        .ok_or(ConfigError::Missing(PUBLIC_KEY_PATH))?;
    let wrong = |why: String| invalid(PUBLIC_KEY_PATH, format!("{path}: {why}"));
    let text = std::fs::read(Path::new(path)).map_err(|error| wrong(error.to_string()))?;
    let blocks = pem::parse_many(&text).map_err(|_| wrong("it is no PEM file".to_owned()))?;
    // A private key has no business here, wherever in the file it stands.
    if blocks.iter().any(|block| block.tag().contains("PRIVATE KEY")) {
        return Err(wrong(
            "it holds a private key; this service checks signatures and needs the public one".to_owned(),
        ));
    }
    match blocks.as_slice() {
        [block] => parse(block).map_err(wrong),
        blocks => Err(wrong(format!(
            "it must hold one public key in PEM, not {}",
            blocks.len()
        ))),
    }
}

fn rsa_key(block: &Pem) -> Result<DecodingKey, String> {
    let key = match block.tag() {
        "PUBLIC KEY" => RsaPublicKey::from_public_key_der(block.contents()).ok(),
        "RSA PUBLIC KEY" => RsaPublicKey::from_pkcs1_der(block.contents()).ok(),
        _ => None,
    };
    let key =
        key.ok_or_else(|| format!("it holds no RSA public key of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits"))?;
    let bits = key.n().bits();
    if bits < MIN_RSA_BITS {
        return Err(format!(
            "an RSA key of {bits} bits is too short, {MIN_RSA_BITS} are needed"
        ));
    }
    Ok(DecodingKey::from_rsa_raw_components(
        &key.n().to_bytes_be(),
        &key.e().to_bytes_be(),
    ))
}

fn p256_key(block: &Pem) -> Result<DecodingKey, String> {
    let key = match block.tag() {
        "PUBLIC KEY" => p256::PublicKey::from_public_key_der(block.contents()).ok(),
        _ => None,
    };
    let key = key.ok_or("it holds no public key on the curve P-256, which ES256 needs (RFC 7518, 3.4)")?;
    // By its name a DER key; what it takes is the point (SEC 1, 2.3.3).
    Ok(DecodingKey::from_ec_der(&key.to_sec1_bytes()))
}
