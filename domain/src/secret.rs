//! The secret of a token, its digest and its hint.
//!
//! A [`Secret`] is what the caller keeps: it is wiped on drop, and can't be printed, logged or serialized by accident.
//! A [`SecretDigest`] is what we keep; it is written to the log and to the read model, and never printed either.
//!
//! Our form: `api-`, `p` or `s`, `_`, 36 random base-62 digits, then the CRC-32 of those 36 as 6 base-62 digits. The
//! checksum lets a scanner tell a leaked secret from noise, and lets us refuse a mistyped one without a lookup. FeatBit's
//! older form (44 characters, no checksum) is accepted too, for imported tokens.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Random base-62 digits in a secret: about 214 bits.
const RANDOM_DIGITS: usize = 36;
/// Base-62 digits of the checksum: 62^6 is more than 2^32.
const CHECKSUM_DIGITS: usize = 6;
/// Characters of a secret in our form, prefix included.
const SECRET_CHARACTERS: usize = 6 + RANDOM_DIGITS + CHECKSUM_DIGITS;
/// Characters of a hint that are the secret's own, as FeatBit's list shows them.
const HINT_CHARACTERS: usize = 10;
/// What FeatBit's list writes for all the others, however many they are.
const HINT_MASK: &str = "*******************";

/// Which of the two token types a new secret is for; a letter in the text tells people, and nothing is decided from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretKind {
    /// Written `p`.
    Personal,
    /// Written `s`.
    Service,
}

impl SecretKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Personal => "api-p_",
            Self::Service => "api-s_",
        }
    }
}

/// The secret of a token in clear text, in our form or in FeatBit's older one. Wiped when dropped.
pub struct Secret(Zeroizing<String>);

/// The text is no secret of either form, or its checksum is wrong. Never says what the text was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed secret")]
pub struct MalformedSecret;

impl Secret {
    /// Makes a secret out of 32 bytes of the operating system's randomness.
    ///
    /// The bytes are one big-endian integer, of which the 36 lowest base-62 digits are taken, lowest first. 62^36 does
    /// not divide 2^256, so some secrets are likelier than others, by less than one part in 2^40.
    pub fn generate(kind: SecretKind, random: impl Into<Zeroizing<[u8; 32]>>) -> Self {
        // The capacity is exact: a string that grew would leave a copy behind that nobody wipes.
        let mut text = Zeroizing::new(String::with_capacity(SECRET_CHARACTERS));
        text.push_str(kind.prefix());
        let mut number = base_2_to_32(&random.into());
        let mut hasher = crc32fast::Hasher::new();
        for _ in 0..RANDOM_DIGITS {
            let digit = base62_digit(divide_by_62(&mut number));
            hasher.update(&[digit]);
            text.push(char::from(digit));
        }
        text.extend(checksum_digits(hasher.finalize()).map(char::from));
        Self(text)
    }

    /// Reads a secret as a caller presents it, without `Bearer ` and without surrounding space.
    ///
    /// # Errors
    /// [`MalformedSecret`] for any other text, and for our form with a wrong checksum.
    pub fn parse(text: &str) -> Result<Self, MalformedSecret> {
        if is_our_form(text) || is_older_form(text) {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(MalformedSecret)
        }
    }

    /// Does a text hold a secret in our form, checksum and all? Whoever keeps texts of others keeps none that does. Nothing
    /// in FeatBit's older form tells a secret from a long name.
    #[must_use]
    pub fn is_in(text: &str) -> bool {
        text.match_indices("api-")
            .filter_map(|(start, _)| text.get(start..)?.get(..SECRET_CHARACTERS))
            .any(is_our_form)
    }

    /// The clear text, for the one response that returns it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the whole text.
    pub fn digest(&self) -> SecretDigest {
        SecretDigest::of_secret(&self.0)
    }

    /// What people may see of it: the first 10 characters and 19 `*`, as FeatBit's list masks it.
    pub fn hint(&self) -> String {
        self.0
            .chars()
            .take(HINT_CHARACTERS)
            .chain(HINT_MASK.chars())
            .collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of a secret: enough to recognise it, not enough to present it. JSON: 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretDigest([u8; 32]);

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed secret digest: 64 lower-case hexadecimal digits are needed")]
pub struct MalformedDigest;

impl SecretDigest {
    /// The digest of a secret as a caller presents it, without `Bearer ` and without surrounding space. Nothing is kept of the
    /// text.
    ///
    /// # Errors
    /// As [`Secret::parse`].
    pub fn of(text: &str) -> Result<Self, MalformedSecret> {
        if is_our_form(text) || is_older_form(text) {
            Ok(Self::of_secret(text))
        } else {
            Err(MalformedSecret)
        }
    }

    /// No salt and no slow function: there is nothing to guess in 214 random bits.
    fn of_secret(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// The digest whose 32 bytes these are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, for SQL.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        let nibbles = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        nibbles
            .filter_map(|nibble| char::from_digit(u32::from(nibble), 16))
            .collect()
    }

    /// Reads what [`to_hex`](Self::to_hex) writes, and only that: a digest has one spelling.
    ///
    /// # Errors
    /// [`MalformedDigest`] for another length, upper case or any other character.
    pub fn from_hex(text: &str) -> Result<Self, MalformedDigest> {
        let mut digits = text.bytes();
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            *byte = (hex_value(digits.next())? << 4) | hex_value(digits.next())?;
        }
        if digits.next().is_some() {
            Err(MalformedDigest)
        } else {
            Ok(Self(bytes))
        }
    }
}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest(…)")
    }
}

impl Serialize for SecretDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for SecretDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).map_err(serde::de::Error::custom)
    }
}

/// Our form, with the right checksum.
fn is_our_form(text: &str) -> bool {
    let body = [SecretKind::Personal, SecretKind::Service]
        .into_iter()
        .find_map(|kind| text.strip_prefix(kind.prefix()));
    let Some((random, checksum)) = body.and_then(|body| body.split_at_checked(RANDOM_DIGITS)) else {
        return false;
    };
    random.bytes().all(|character| character.is_ascii_alphanumeric())
        && checksum
            .bytes()
            .eq(checksum_digits(crc32fast::hash(random.as_bytes())))
}

/// FeatBit's own: `^api-[A-Za-z0-9]{18}[A-Za-z0-9_-]{22}$`.
fn is_older_form(text: &str) -> bool {
    let Some((time, random)) = text
        .strip_prefix("api-")
        .and_then(|body| body.split_at_checked(18))
    else {
        return false;
    };
    time.bytes().all(|character| character.is_ascii_alphanumeric())
        && random.len() == 22
        && random
            .bytes()
            .all(|character| character.is_ascii_alphanumeric() || matches!(character, b'_' | b'-'))
}

/// A number of 32 big-endian bytes in base 2^32, highest first: to divide it byte by byte takes four times as long.
fn base_2_to_32(bytes: &[u8; 32]) -> Zeroizing<[u32; 8]> {
    let mut limbs = Zeroizing::new([0; 8]);
    let (chunks, _) = bytes.as_chunks();
    for (limb, chunk) in limbs.iter_mut().zip(chunks) {
        *limb = u32::from_be_bytes(*chunk);
    }
    limbs
}

/// Divides a number in base 2^32 by 62 in place and gives the remainder, 0..=61.
fn divide_by_62(number: &mut [u32; 8]) -> u8 {
    let mut remainder = 0;
    for limb in number {
        let dividend = (remainder << 32) | u64::from(*limb);
        // The remainder is below 62, so the quotient is below 2^32 and its high half is 0.
        let [.., a, b, c, d] = (dividend / 62).to_be_bytes();
        *limb = u32::from_be_bytes([a, b, c, d]);
        remainder = dividend % 62;
    }
    let [.., remainder] = remainder.to_be_bytes();
    remainder
}

/// A checksum as 6 base-62 digits, highest first.
fn checksum_digits(checksum: u32) -> [u8; CHECKSUM_DIGITS] {
    let mut digits = [b'0'; CHECKSUM_DIGITS];
    let mut rest = checksum;
    for digit in digits.iter_mut().rev() {
        let [.., remainder] = (rest % 62).to_be_bytes();
        *digit = base62_digit(remainder);
        rest /= 62;
    }
    digits
}

/// The ASCII character of a base-62 digit, alphabet `0-9A-Za-z`.
const fn base62_digit(value: u8) -> u8 {
    match value % 62 {
        value @ 0..=9 => b'0' + value,
        value @ 10..=35 => b'A' + (value - 10),
        value => b'a' + (value - 36),
    }
}

fn hex_value(digit: Option<u8>) -> Result<u8, MalformedDigest> {
    match digit {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        Some(digit @ b'a'..=b'f') => Ok(digit - b'a' + 10),
        _ => Err(MalformedDigest),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Worked out with Python's big integers and `zlib.crc32`, not with this code.
    const COUNTING: &str = "api-s_flDIBkGwcRKRL9GXCgaFM3UNu2jQTCljt7CJ2TP5ns";

    fn counting_bytes() -> [u8; 32] {
        std::array::from_fn(|index| u8::try_from(index).expect("below 32"))
    }

    #[test]
    fn a_secret_is_its_prefix_36_digits_and_their_checksum() {
        assert_eq!(
            Secret::generate(SecretKind::Service, counting_bytes()).reveal(),
            COUNTING
        );
        let zero = Secret::generate(SecretKind::Personal, [0; 32]);
        assert_eq!(zero.reveal(), format!("api-p_{}0etOEM", "0".repeat(36)));
    }

    /// Tried: `is_our_form` without the checksum; its neighbour below: without the alphabet.
    #[test]
    fn a_secret_with_any_one_character_changed_is_refused() {
        for (index, character) in COUNTING.char_indices() {
            for other in ['0', 'A', 'z', '_', '-', ' ', 'é']
                .into_iter()
                .filter(|other| *other != character)
            {
                let mut changed = COUNTING.to_owned();
                changed.replace_range(index..=index, &other.to_string());
                // The kind letter is not part of the checksum, and 'p' is not among the replacements.
                assert!(Secret::parse(&changed).is_err(), "{changed}");
            }
        }
    }

    #[test]
    fn only_digits_and_letters_are_random_digits_even_with_a_right_checksum() {
        for random in ["_".repeat(36), "é".repeat(18), format!("{}-", "0".repeat(35))] {
            let checksum = checksum_digits(crc32fast::hash(random.as_bytes()));
            let text = format!("api-p_{random}{}", String::from_utf8_lossy(&checksum));
            assert!(Secret::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn text_around_a_secret_or_missing_from_it_is_refused() {
        for text in [
            String::new(),
            "api-".to_owned(),
            format!("{COUNTING}0"),
            format!("{COUNTING}\n"),
            format!(" {COUNTING}"),
            format!("Bearer {COUNTING}"),
            COUNTING.trim_end_matches(|_| true).to_owned(),
            COUNTING.strip_suffix(|_| true).expect("not empty").to_owned(),
        ] {
            assert_eq!(Secret::parse(&text).err(), Some(MalformedSecret), "{text:?}");
        }
    }

    #[test]
    fn the_older_form_has_44_characters_of_its_alphabet() {
        let older = "api-MDAwMDAwMDAwMDA3MQlMiC0LXZRkiZ6a4nq30kfQ";
        assert!(Secret::parse(older).is_ok());
        assert!(Secret::parse(&format!("{older}Q")).is_err());
        assert!(Secret::parse(older.strip_suffix('Q').expect("ends in Q")).is_err());
        assert!(
            Secret::parse(&older.replace("MDAw", "MD-w")).is_err(),
            "no dash in the first 18"
        );
        assert!(Secret::parse(&older.replace("kfQ", "_-Q")).is_ok());
        assert!(Secret::parse(&older.replace("kfQ", "k.Q")).is_err());
    }

    /// Tried: only the first `api-` looked at; only the whole text.
    #[test]
    fn a_secret_is_found_wherever_it_stands_in_a_text() {
        for text in [
            COUNTING.to_owned(),
            format!("see {COUNTING}."),
            format!("api-s_{COUNTING}{COUNTING}"),
            format!("é{COUNTING}é"),
            format!("api-api-p_é{COUNTING}"),
        ] {
            assert!(Secret::is_in(&text), "{text}");
        }
        let mistyped = COUNTING.replace("ns", "nt");
        for text in [
            "",
            "api-",
            "api-s_é",
            "api-gateway",
            mistyped.as_str(),
            COUNTING.strip_suffix('s').expect("ends in s"),
            "api-MDAwMDAwMDAwMDA3MQlMiC0LXZRkiZ6a4nq30kfQ",
        ] {
            assert!(!Secret::is_in(text), "{text}");
        }
    }

    #[test]
    fn the_digest_is_the_sha_256_of_the_whole_text() {
        let digest = Secret::parse(COUNTING).expect("well formed").digest();
        assert_eq!(
            digest.to_hex(),
            "0b4c83f407eaba6764a1ab6d108cfab14b05ff863d5f7da6b9981d2c276cd5ae"
        );
    }

    #[test]
    fn neither_a_secret_nor_its_digest_can_be_printed() {
        let secret = Secret::parse(COUNTING).expect("well formed");
        assert_eq!(
            format!("{secret:?} {:?}", secret.digest()),
            "Secret(…) SecretDigest(…)"
        );
        assert_eq!(
            format!("{:#?}", Some(secret.digest())),
            "Some(\n    SecretDigest(…),\n)"
        );
        assert_eq!(MalformedSecret.to_string(), "malformed secret");
    }

    #[test]
    fn a_hint_shows_ten_characters() {
        let secret = Secret::parse(COUNTING).expect("well formed");
        assert_eq!(secret.hint(), format!("{}{}", &COUNTING[..10], "*".repeat(19)));
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let digest = SecretDigest::from_bytes([0xAB; 32]);
        let hex = "ab".repeat(32);
        assert_eq!(
            serde_json::to_string(&digest).expect("serializes"),
            format!("\"{hex}\"")
        );
        assert_eq!(
            serde_json::from_str::<SecretDigest>(&format!("\"{hex}\"")).expect("reads"),
            digest
        );
        for text in [
            hex.to_uppercase(),
            hex.replacen('a', "g", 1),
            format!("{hex}a"),
            "ab".repeat(31),
            String::new(),
        ] {
            assert_eq!(SecretDigest::from_hex(&text), Err(MalformedDigest), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_generated_secret_is_well_formed(random: [u8; 32]) {
            let secret = Secret::generate(SecretKind::Personal, random);
            prop_assert_eq!(secret.reveal().len(), SECRET_CHARACTERS);
            let read = Secret::parse(secret.reveal()).expect("well formed");
            prop_assert_eq!(read.digest(), secret.digest());
            prop_assert_eq!(SecretDigest::from_hex(&read.digest().to_hex()), Ok(read.digest()));
        }

        #[test]
        fn any_text_can_be_read_without_a_panic(text in ".*") {
            let _ = Secret::parse(&text);
            let _ = SecretDigest::from_hex(&text);
            let _ = Secret::is_in(&format!("api-{text}api-s_{text}"));
        }
    }
}
