//! One key of `gateway.json` or `cluster-keys.json`: what a relay signs its tokens with, and what that lets it serve.

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use aws_lc_rs::{constant_time, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sallyport_wire::Scope;
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Fewest bytes of a shared secret: as many as HMAC-SHA-256 puts out (RFC 7518 §3.2).
pub const MIN_SECRET: usize = 32;

/// Most bytes of a shared secret.
pub const MAX_SECRET: usize = 512;

/// Most characters of a key id.
pub const MAX_KID: usize = 64;

/// Distinct byte values below which a secret of [`MIN_SECRET`] bytes was not drawn at random: chance
/// stays under this once in 10^11.
const MIN_DISTINCT: usize = 16;

/// A key: its id, what proves it, what it may serve and how long it lives.
#[derive(Debug, Clone)]
pub struct Key {
    /// Key id: 1 to [`MAX_KID`] of `A-Z a-z 0-9 . _ -`. A token names its key by it.
    pub kid: String,
    /// What proves the key.
    pub material: Material,
    /// What may be served with it.
    pub scope: Scope,
    /// When it stops being accepted; never if none.
    pub expires: Option<OffsetDateTime>,
}

/// What proves a key. It also decides the algorithm; a token never does.
#[derive(Clone)]
pub enum Material {
    /// HS256: one secret at the gateway and at the relays.
    Shared(Secret),
    /// EdDSA, the gateway's half: it can check and cannot forge.
    Public([u8; 32]),
    /// EdDSA, the relay's half: the 32-byte seed (RFC 8032 §5.1.5).
    Private(Seed),
}

/// A shared secret that passed the checks for length and randomness.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// The seed of an Ed25519 key pair, and its public half.
#[derive(Clone)]
pub struct Seed {
    seed: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

/// Why a key is none. Names the key, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The id has other characters or another length than allowed.
    #[error("a key id has 1 to {MAX_KID} of the characters A-Z a-z 0-9 . _ -, not `{0}`")]
    Kid(String),
    /// A field is not base64url of the right length.
    #[error("key `{kid}`: `{field}` is not base64url without padding")]
    Encoding {
        /// Key id.
        kid: String,
        /// Field of the file.
        field: &'static str,
    },
    /// Outside [`MIN_SECRET`] to [`MAX_SECRET`] bytes.
    #[error(
        "key `{kid}`: the secret has {len} bytes, it needs {MIN_SECRET} to {MAX_SECRET}; make one with `sallyport-gateway key add`, or `sallyport-relay cluster-key add`"
    )]
    Length {
        /// Key id.
        kid: String,
        /// Bytes found.
        len: usize,
    },
    /// Long enough and still easy to guess.
    #[error(
        "key `{kid}`: the secret is not random ({why}); make one with `sallyport-gateway key add`, or `sallyport-relay cluster-key add`"
    )]
    Weak {
        /// Key id.
        kid: String,
        /// What gives it away.
        why: &'static str,
    },
    /// Not 32 bytes, or a pair whose halves differ.
    #[error("key `{kid}`: `{field}` is no Ed25519 key of 32 bytes, or does not fit the other half")]
    Ed25519 {
        /// Key id.
        kid: String,
        /// Field of the file.
        field: &'static str,
    },
    /// Not exactly one of a secret and an Ed25519 key.
    #[error("key `{0}`: it has either `secret`, or `public_key` and/or `private_key`")]
    Material(String),
    /// The system's source of randomness failed.
    #[error("the system gave no random bytes")]
    NoRandom,
}

impl Key {
    /// A new key with a shared secret of 32 random bytes.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`].
    pub fn generate(scope: Scope, expires: Option<OffsetDateTime>) -> Result<Self, KeyError> {
        let kid = new_kid()?;
        let mut bytes = Zeroizing::new(vec![0; MIN_SECRET]);
        rand::fill(&mut bytes).map_err(|_none| KeyError::NoRandom)?;
        let material = Material::Shared(Secret(bytes));
        Ok(Self {
            kid,
            material,
            scope,
            expires,
        })
    }

    /// A new Ed25519 key: the relay's copy. [`Key::public_half`] is the gateway's.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`].
    pub fn generate_pair(scope: Scope, expires: Option<OffsetDateTime>) -> Result<Self, KeyError> {
        let kid = new_kid()?;
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(seed.as_mut()).map_err(|_none| KeyError::NoRandom)?;
        let material = Material::Private(Seed::new(&kid, seed)?);
        Ok(Self {
            kid,
            material,
            scope,
            expires,
        })
    }

    /// The copy of a key pair that can check and cannot sign; a key with a shared secret has none.
    #[must_use]
    pub fn public_half(&self) -> Option<Self> {
        let public = match &self.material {
            Material::Shared(_) => return None,
            Material::Public(public) => *public,
            Material::Private(seed) => seed.public,
        };
        Some(Self {
            material: Material::Public(public),
            ..self.clone()
        })
    }

    /// Whether the key is accepted at `now`.
    #[must_use]
    pub fn is_live(&self, now: OffsetDateTime) -> bool {
        self.expires.is_none_or(|end| now < end)
    }

    /// Whether tokens can be made with it.
    #[must_use]
    pub const fn can_sign(&self) -> bool {
        matches!(self.material, Material::Shared(_) | Material::Private(_))
    }

    /// The JWT `alg` (RFC 7518 §3.1, RFC 8037 §3.1) of every token of this key.
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        match self.material {
            Material::Shared(_) => "HS256",
            Material::Public(_) | Material::Private(_) => "EdDSA",
        }
    }

    /// The signature over `message`, or `None` from a public half.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match &self.material {
            Material::Shared(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
                Some(hmac::sign(&key, message).as_ref().to_vec())
            }
            Material::Private(seed) => {
                let pair = Ed25519KeyPair::from_seed_unchecked(seed.seed.as_ref()).ok()?;
                pair.try_sign(message)
                    .ok()
                    .map(|signature| signature.as_ref().to_vec())
            }
            Material::Public(_) => None,
        }
    }

    /// Whether `signature` is this key's over `message`, compared in constant time.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let public = match &self.material {
            Material::Shared(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
                return hmac::verify(&key, message, signature).is_ok();
            }
            Material::Public(public) => public,
            Material::Private(seed) => &seed.public,
        };
        verify_ed25519(public, message, signature)
    }

    /// Whether two keys are proven by the same secret or key pair.
    #[must_use]
    pub fn same_material(&self, other: &Self) -> bool {
        match (&self.material, &other.material) {
            (Material::Shared(a), Material::Shared(b)) => {
                constant_time::verify_slices_are_equal(&a.0, &b.0).is_ok()
            }
            (Material::Shared(_), _) | (_, Material::Shared(_)) => false,
            (a, b) => a.public() == b.public(),
        }
    }
}

impl Material {
    const fn public(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Shared(_) => None,
            Self::Public(public) => Some(public),
            Self::Private(seed) => Some(&seed.public),
        }
    }
}

impl Secret {
    /// A secret from its base64url text.
    ///
    /// # Errors
    /// [`KeyError`] if it is too short, too long, not base64url or not random.
    pub fn from_text(kid: &str, text: &str) -> Result<Self, KeyError> {
        let bytes = from_base64url(kid, "secret", text)?;
        let kid = kid.to_owned();
        if !(MIN_SECRET..=MAX_SECRET).contains(&bytes.len()) {
            return Err(KeyError::Length {
                kid,
                len: bytes.len(),
            });
        }
        match weakness(&bytes) {
            Some(why) => Err(KeyError::Weak { kid, why }),
            None => Ok(Self(bytes)),
        }
    }

    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(&*self.0))
    }
}

impl Seed {
    pub(crate) fn new(kid: &str, seed: Zeroizing<[u8; 32]>) -> Result<Self, KeyError> {
        let kid = kid.to_owned();
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).ok();
        let public = pair.and_then(|pair| pair.public_key().as_ref().try_into().ok());
        let public = public.ok_or(KeyError::Ed25519 {
            kid,
            field: "private_key",
        })?;
        Ok(Self { seed, public })
    }

    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.seed.as_ref()))
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared(_) => "Shared(..)",
            Self::Public(_) => "Public(..)",
            Self::Private(_) => "Private(..)",
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// Checks an Ed25519 signature (RFC 8032 §5.1.7).
pub(crate) fn verify_ed25519(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public)
        .verify(message, signature)
        .is_ok()
}

/// Checks the form of a key id.
///
/// # Errors
/// [`KeyError::Kid`].
pub fn check_kid(kid: &str) -> Result<(), KeyError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    if (1..=MAX_KID).contains(&kid.len()) && kid.bytes().all(plain) {
        return Ok(());
    }
    let shown = kid
        .chars()
        .take(MAX_KID)
        .flat_map(char::escape_default)
        .collect();
    Err(KeyError::Kid(shown))
}

pub(crate) fn from_base64url(
    kid: &str,
    field: &'static str,
    text: &str,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    match URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(_where) => Err(KeyError::Encoding {
            kid: kid.to_owned(),
            field,
        }),
    }
}

pub(crate) fn to_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn new_kid() -> Result<String, KeyError> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_none| KeyError::NoRandom)?;
    Ok(format!("k{:016x}", u64::from_be_bytes(bytes)))
}

/// What shows that a secret was not drawn at random. It catches what people type and copy, not what an
/// attacker with the file could find.
fn weakness(secret: &[u8]) -> Option<&'static str> {
    let distinct: BTreeSet<_> = secret.iter().collect();
    let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let steps: BTreeSet<_> = secret
        .iter()
        .zip(secret.iter().skip(1))
        .map(|(a, b)| b.wrapping_sub(*a))
        .collect();
    if distinct.len() < MIN_DISTINCT {
        return Some("too few different bytes");
    }
    if repeats(secret) {
        return Some("it repeats itself");
    }
    if steps.len() < MIN_DISTINCT / 2 {
        return Some("it counts");
    }
    secret.iter().all(printable).then_some("it is typed text")
}

/// Whether the second half says nothing that the first did not: a period of at most half its length.
fn repeats(secret: &[u8]) -> bool {
    (1..=secret.len() / 2).any(|period| {
        secret
            .iter()
            .zip(secret.iter().skip(period))
            .all(|(a, b)| a == b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(secret: &[u8]) -> KeyError {
        let text = URL_SAFE_NO_PAD.encode(secret);
        Secret::from_text("k1", &text).expect_err("a weak secret")
    }

    #[test]
    fn generated_keys_differ_and_read_back() {
        let one = Key::generate(Scope::default(), None).expect("randomness");
        let two = Key::generate(Scope::default(), None).expect("randomness");

        assert_ne!(one.kid, two.kid);
        assert!(!one.same_material(&two));
        let Material::Shared(secret) = &one.material else {
            panic!("generate makes shared keys")
        };
        let read = Secret::from_text("k", &secret.to_text()).expect("its own text");
        assert!(one.same_material(&Key {
            material: Material::Shared(read),
            ..one.clone()
        }));
    }

    #[test]
    fn weak_secrets_are_named_by_key_and_not_by_value() {
        let counting: Vec<u8> = (0..32).collect();
        let repeated =
            b"\x01\x92\xa3\x04\xf5\x36\x77\x18\x09\xca\x1b\x2c\xd3\x40\x5f\x6e\x7d".repeat(2);
        let typed = b"correct horse battery staple, said Bob's 3rd cat";
        assert!(matches!(
            refused(b"changeme"),
            KeyError::Length { len: 8, .. }
        ));
        assert!(matches!(refused(&[]), KeyError::Length { len: 0, .. }));
        assert!(matches!(
            refused(&[b'a'; 31]),
            KeyError::Length { len: 31, .. }
        ));
        assert!(matches!(
            refused(&[7; 513]),
            KeyError::Length { len: 513, .. }
        ));
        for weak in [&[b'a'; 32][..], &counting, &repeated, typed, &[0; 64]] {
            let error = refused(weak);
            assert!(matches!(error, KeyError::Weak { .. }), "{error}");
            let told = error.to_string();
            assert!(told.contains("`k1`") && !told.contains(&URL_SAFE_NO_PAD.encode(weak)));
        }
        let padded = Secret::from_text("k1", "not base64url!").expect_err("no base64");
        assert!(matches!(padded, KeyError::Encoding { .. }));
    }

    #[test]
    fn a_public_half_checks_and_cannot_sign() {
        let pair = Key::generate_pair(Scope::default(), None).expect("randomness");
        let half = pair.public_half().expect("a pair has one");
        let signature = pair.sign(b"text").expect("the relay's half signs");

        assert!(half.verifies(b"text", &signature) && !half.verifies(b"other", &signature));
        assert_eq!(half.sign(b"text"), None);
        assert!(!half.can_sign() && half.same_material(&pair));
    }

    #[test]
    fn debug_shows_no_secret() {
        for key in [
            Key::generate(Scope::default(), None),
            Key::generate_pair(Scope::default(), None),
        ] {
            let key = key.expect("randomness");
            let text = match &key.material {
                Material::Shared(secret) => secret.to_text(),
                Material::Private(seed) => seed.to_text(),
                Material::Public(_) => panic!("neither generates a public half"),
            };
            let shown = format!("{key:?}");
            assert!(shown.contains("(..)") && !shown.contains(text.as_str()));
        }
    }

    #[test]
    fn ids_are_plain() {
        for bad in ["", "../etc/passwd", "a b", "a\n", "é", &"x".repeat(65)] {
            assert!(check_kid(bad).is_err(), "{bad}");
        }
        assert!(check_kid("2026-11.site_A").is_ok());
    }
}
