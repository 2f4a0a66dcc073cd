//! Every key that would let others sign is refused at the start, by the name of its setting and without a word of the key.
//! Whether the keys that are taken check JWTs is tested over HTTP, in `tests/suite/hostile`.

use rsa::BigUint;
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::pkcs8::{EncodePublicKey, LineEnding};

use super::*;
use crate::config::Config;

const P256: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
";
const P256_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2
OF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r
1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G
-----END PRIVATE KEY-----
";
/// Made for this test by `openssl ecparam -genkey`.
const P256_PRIVATE_SEC1: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIEqeCKcWU34b+c7zxg6Dwbhs8dFDaKVvU/PTXmG03GGuoAoGCCqGSM49
AwEHoUQDQgAE8F6IIIEAmNSPbDheAHurPyDpYEOQzWU9NgRujvZ7Cf6p9O4nG6rH
ppfPMjlaGmFSOp5e99h0g4LxzCFw1UhJgQ==
-----END EC PRIVATE KEY-----
";
/// Made for this test, as the next two: curves that ES256 is not for.
const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE5cBjMOK4WfccVXAwca9UFu1omiNDYMSw
ugn7rm3CZuoHzAwLhPS+0Whzs3YuXo+D+oKCIcY3fZzTNsLxM8P260cJ/6JS12Mx
Nmb4CfvnIN6mv25W/vO05kqo2rzDWdp7
-----END PUBLIC KEY-----
";
const SECP256K1: &str = "-----BEGIN PUBLIC KEY-----
MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAE1ju6CTl9MwwYVgIcGpU4OjZHk6w9OxHX
BK93Z2XUlaliL6Pch029rgqgYrdhivF770dAW3oYvlkEJ96OeD2NTA==
-----END PUBLIC KEY-----
";
const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAm20ms2td1Y89eDnpy+mEj/M1rhKgWF5D0VxAwCajjTs=
-----END PUBLIC KEY-----
";

/// A public key of so many bits. Nobody has the other half, and nobody knows whether there is one.
fn rsa_of(bits: usize) -> RsaPublicKey {
    let modulus = (BigUint::from(1_u8) << (bits - 1)) + BigUint::from(1_u8);
    RsaPublicKey::new_with_max_size(modulus, BigUint::from(65_537_u32), 1 << 16).expect("a key")
}

fn rsa_pem(bits: usize) -> String {
    rsa_of(bits).to_public_key_pem(LineEnding::LF).expect("a PEM")
}

/// What `serve` makes of these settings, on top of those it can't do without.
fn serve(settings: &[(&str, &str)]) -> Result<(), ConfigError> {
    let mut environment = Environment(std::collections::BTreeMap::new()).with([
        ("DATABASE_URL", "postgres://x".to_owned()),
        ("GATEWAY_KEYS", "g".to_owned()),
    ]);
    for (name, value) in settings {
        environment = environment.with([(*name, (*value).to_owned())]);
    }
    Config::from_environment(&environment).map(|_| ())
}

/// What `serve` makes of a file that holds this as its public key.
fn serve_with_key(algorithm: &str, contents: impl AsRef<[u8]>) -> Result<(), ConfigError> {
    let path = std::env::temp_dir().join(format!("{}.pem", uuid::Uuid::new_v4()));
    std::fs::write(&path, contents).expect("a file");
    let result = serve(&[
        ("JWT_ALGORITHM", algorithm),
        (PUBLIC_KEY_PATH, path.to_str().expect("a path")),
    ]);
    std::fs::remove_file(&path).expect("the file");
    result
}

/// Refused, naming the setting, with these words, and without a word of the key.
fn refused(result: Result<(), ConfigError>, name: &str, why: &str, key: &str) {
    let said = result.expect_err(why).to_string();
    assert!(said.starts_with(name) && said.contains(why), "{said}");
    for line in key
        .lines()
        .filter(|line| line.len() > 8 && !line.starts_with("--"))
    {
        assert!(!said.contains(line), "{said}");
    }
}

/// Tried: without `PUBLISHED_KEYS`; without `trim`.
#[test]
fn the_keys_that_featbit_publishes_are_refused() {
    for key in [
        "featbit-identity-key-must-longer-than-32-characters",
        "please_change_me_to_a_secure_secret_key",
        "this-identity-key-is-for-development-only",
    ] {
        for written in [key.to_owned(), format!(" {key}\n")] {
            let result = serve(&[(KEY, written.as_str())]);
            refused(result, KEY, "FeatBit publishes", key);
        }
        assert!(
            serve(&[(KEY, format!("{key}!").as_str())]).is_ok(),
            "another key is another key"
        );
    }
}

/// Tried: `MIN_KEY` one lower and one higher; characters counted for bytes.
#[test]
fn a_shared_key_has_32_bytes_or_more() {
    for key in ["a".repeat(31), "é".repeat(15), "   ".to_owned()] {
        refused(serve(&[(KEY, key.as_str())]), KEY, "32 bytes", &key);
    }
    for key in ["a".repeat(32), "é".repeat(16)] {
        assert!(serve(&[(KEY, key.as_str())]).is_ok());
    }
    refused(serve(&[]), KEY, "is not set", "");
}

#[test]
fn an_algorithm_that_is_none_of_the_three_is_refused() {
    let key = "a".repeat(64);
    for algorithm in [
        "none",
        "HS512",
        "HS384",
        "RS512",
        "PS256",
        "EdDSA",
        "hs256",
        "HS256,RS256",
    ] {
        let result = serve(&[("JWT_ALGORITHM", algorithm), (KEY, key.as_str())]);
        refused(result, "JWT_ALGORITHM", algorithm, &key);
    }
}

/// Tried: the check taken out.
#[test]
fn a_public_key_that_would_not_be_looked_at_is_refused() {
    let key = "a".repeat(64);
    refused(
        serve(&[(KEY, key.as_str()), (PUBLIC_KEY_PATH, "/some/key.pem")]),
        PUBLIC_KEY_PATH,
        "HS256",
        &key,
    );
    assert!(
        serve(&[(KEY, key.as_str()), (PUBLIC_KEY_PATH, "")]).is_ok(),
        "empty is not set"
    );
    // Where the algorithm was named there is no doubt, whatever else stands in the environment.
    let both = [
        ("JWT_ALGORITHM", "ES256"),
        (KEY, key.as_str()),
        (PUBLIC_KEY_PATH, "/no/such/file.pem"),
    ];
    refused(serve(&both), PUBLIC_KEY_PATH, "/no/such/file.pem", &key);
}

#[test]
fn a_file_that_holds_no_key_is_refused() {
    for algorithm in ["RS256", "ES256"] {
        refused(
            serve(&[("JWT_ALGORITHM", algorithm)]),
            PUBLIC_KEY_PATH,
            "is not set",
            "",
        );
        let missing = serve(&[
            ("JWT_ALGORITHM", algorithm),
            (PUBLIC_KEY_PATH, "/no/such/file.pem"),
        ]);
        refused(missing, PUBLIC_KEY_PATH, "/no/such/file.pem", "");
        for garbage in [
            b"".as_slice(),
            b"\n",
            b"\xff\xfe\x00",
            b"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs",
            b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
            b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n",
            b"-----BEGIN CERTIFICATE-----\nMFkw\n-----END CERTIFICATE-----\n",
        ] {
            refused(serve_with_key(algorithm, garbage), PUBLIC_KEY_PATH, ".pem: ", "");
        }
    }
}

/// Tried: without the look at all blocks; without the number of blocks.
#[test]
fn a_private_key_has_no_business_here() {
    let beside = format!("{P256}{P256_PRIVATE}");
    for key in [P256_PRIVATE, P256_PRIVATE_SEC1, beside.as_str()] {
        for algorithm in ["RS256", "ES256"] {
            refused(
                serve_with_key(algorithm, key),
                PUBLIC_KEY_PATH,
                "private key",
                key,
            );
        }
    }
    let two = format!("{P256}{P256}");
    refused(serve_with_key("ES256", &two), PUBLIC_KEY_PATH, "not 2", &two);
}

/// Tried: `MIN_RSA_BITS` one lower and one higher.
#[test]
fn an_rsa_key_has_2048_to_4096_bits() {
    for bits in [512, 1024, 2047, 4097] {
        let key = rsa_pem(bits);
        refused(serve_with_key("RS256", &key), PUBLIC_KEY_PATH, "2048", &key);
    }
    for bits in [2048, 3072, 4096] {
        assert!(serve_with_key("RS256", rsa_pem(bits)).is_ok(), "{bits}");
    }
    let older_form = rsa_of(2048).to_pkcs1_pem(LineEnding::CRLF).expect("a PEM");
    assert!(serve_with_key("RS256", older_form).is_ok());
}

/// Tried: `DecodingKey::from_ec_pem` alone, which takes any curve.
#[test]
fn a_key_is_of_the_algorithms_own_kind_and_curve() {
    assert!(serve_with_key("ES256", P256).is_ok());
    for (algorithm, key) in [
        ("ES256", P384),
        ("ES256", SECP256K1),
        ("ES256", ED25519),
        ("ES256", rsa_pem(2048).as_str()),
        ("RS256", P256),
        ("RS256", ED25519),
    ] {
        let why = if algorithm == "ES256" { "P-256" } else { "RSA" };
        refused(serve_with_key(algorithm, key), PUBLIC_KEY_PATH, why, key);
    }
}
