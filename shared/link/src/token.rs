//! The relay's token: a JWT (RFC 7519) in compact form (RFC 7515 §7.1) that proves a key of
//! `gateway.json` on one connection, and the checks that it has to pass.
//!
//! The `jsonwebtoken` crate is not in this path, because it is looser than a pre-authentication parser
//! may be: it reads the system's clock itself, takes floats for `exp` and arrays for `aud`, skips unknown
//! header fields, and gets its cryptography from a process-wide provider that panics when another crate
//! of the build enables a second one. Tests check with it that what is minted here is a JWT to others.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{constant_time, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sallyport_wire::{BINDING_LEN, Code, NodeName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::key::Key;

/// Longest life of a token, from `iat` to `exp`.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// How far the relay's clock may be off before the answer is [`Code::ClockSkew`].
pub const LEEWAY: Duration = Duration::from_secs(30);

/// Most bytes of a token.
pub const MAX_TOKEN: usize = sallyport_wire::MAX_HELLO;

/// Bytes of a `jti`.
pub const ID_LEN: usize = 16;

/// Most characters of foreign text in a cause for the log.
const MAX_SHOWN: usize = 160;

/// What a token is made for.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// The node that dials.
    pub node: &'a NodeName,
    /// The gateway dialled: [`crate::GatewayUrl::audience`].
    pub audience: &'a str,
    /// Keying material exported from this very connection.
    pub binding: &'a [u8; BINDING_LEN],
}

/// Why no token was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The key is a gateway's public half.
    #[error("key `{0}` has only a public half here, which cannot sign")]
    CannotSign(String),
    /// The system's source of randomness failed, or its clock stands before 1970.
    #[error("the system gave no {0}")]
    System(&'static str),
}

/// Why a token is refused. The text is for the log; [`TokenFault::code`] is what the peer hears.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Over [`MAX_TOKEN`].
    #[error("the token has {0} bytes, at most {MAX_TOKEN} are allowed")]
    TooLong(usize),
    /// Not three parts of base64url without padding.
    #[error("the token is not three base64url parts: {0}")]
    Shape(&'static str),
    /// The header is not exactly `alg`, `kid` and `typ`, each a string.
    #[error("the token's header is wrong: {0}")]
    Header(String),
    /// The header's `alg` is not the one of its key.
    #[error("the token says algorithm `{found}`, its key is for `{wanted}`")]
    Algorithm {
        /// As in the header, shortened.
        found: String,
        /// What the key decides.
        wanted: &'static str,
    },
    /// The signature is not the key's.
    #[error("the token's signature is not that of its key")]
    Signature,
    /// A claim is missing, doubled, unknown or of a wrong type.
    #[error("the token's claims are wrong: {0}")]
    Claims(String),
    /// Made for another gateway.
    #[error("the token is for `{0}`, not for this gateway")]
    Audience(String),
    /// Made for another node than the one that the relay says it is.
    #[error("the token is of node `{0}`, not of the one in the hello")]
    Node(String),
    /// Made on another connection.
    #[error("the token belongs to another connection")]
    Binding,
    /// `exp` is not after `iat`, or too long after.
    #[error("the token lives {0} s, it may live 1 to 60")]
    Lifetime(i64),
    /// Outside its life by more than [`LEEWAY`].
    #[error("the relay's clock is {seconds:+} s off, 30 are allowed")]
    Skew {
        /// The relay's clock minus ours.
        seconds: i64,
    },
}

impl TokenFault {
    /// What the peer is told: nothing but that it failed, except a peer that proved its key.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Skew { .. } => Code::ClockSkew,
            Self::TooLong(_)
            | Self::Shape(_)
            | Self::Header(_)
            | Self::Algorithm { .. }
            | Self::Signature
            | Self::Claims(_)
            | Self::Audience(_)
            | Self::Node(_)
            | Self::Binding
            | Self::Lifetime(_) => Code::Unauthorised,
        }
    }

    /// The relay's clock minus ours in seconds, where that is the fault.
    #[must_use]
    pub const fn skew(&self) -> Option<i64> {
        if let Self::Skew { seconds } = self {
            return Some(*seconds);
        }
        None
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClaims {
    iss: String,
    aud: String,
    iat: u64,
    exp: u64,
    jti: String,
    cb: String,
}

/// Makes a token that lives from `now` for [`LIFETIME`].
///
/// # Errors
/// [`MintError`] if the key cannot sign or the system has no randomness.
pub fn mint(key: &Key, grant: &Grant<'_>, now: SystemTime) -> Result<String, MintError> {
    let iat = unix(now).ok_or(MintError::System("time after 1970"))?;
    let mut id = [0; ID_LEN];
    rand::fill(&mut id).map_err(|_none| MintError::System("random bytes"))?;
    let header = Header {
        alg: key.algorithm().to_owned(),
        kid: key.kid.clone(),
        typ: "JWT".to_owned(),
    };
    let claims = RawClaims {
        iss: grant.node.to_string(),
        aud: grant.audience.to_owned(),
        iat,
        exp: iat.saturating_add(LIFETIME.as_secs()),
        jti: URL_SAFE_NO_PAD.encode(id),
        cb: URL_SAFE_NO_PAD.encode(grant.binding),
    };
    let signed = format!("{}.{}", part(&header)?, part(&claims)?);
    let signature = key.sign(signed.as_bytes());
    let signature = signature.ok_or_else(|| MintError::CannotSign(key.kid.clone()))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn part(json: &impl Serialize) -> Result<String, MintError> {
    let json = serde_json::to_vec(json).map_err(|_never| MintError::System("memory"))?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

/// A token whose form is right and whose signature nobody has checked yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    kid: String,
    alg: String,
    signed: &'a str,
    claims: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart. Nothing in it is believed yet but which key to check it with.
    ///
    /// # Errors
    /// [`TokenFault`] for anything but the one allowed form.
    pub fn parse(token: &'a str) -> Result<Self, TokenFault> {
        if token.len() > MAX_TOKEN {
            return Err(TokenFault::TooLong(token.len()));
        }
        let (signed, signature) = token
            .rsplit_once('.')
            .ok_or(TokenFault::Shape("one part"))?;
        let (header, claims) = signed
            .split_once('.')
            .ok_or(TokenFault::Shape("two parts"))?;
        if claims.contains('.') {
            return Err(TokenFault::Shape("more than three parts"));
        }
        let Header { alg, kid, typ } = strict(&decode(header)?).map_err(TokenFault::Header)?;
        if typ != "JWT" {
            return Err(TokenFault::Header(format!("`typ` is `{}`", shown(&typ))));
        }
        let (claims, signature) = (decode(claims)?, decode(signature)?);
        Ok(Self {
            kid,
            alg,
            signed,
            claims,
            signature,
        })
    }

    /// The id of the key to check it with: looked up, never used as a path or an address.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Checks the signature with the key of [`Unverified::kid`], then reads the claims.
    ///
    /// # Errors
    /// [`TokenFault`] for another algorithm than the key's, a wrong signature or wrong claims.
    pub fn verify(self, key: &Key) -> Result<Claims, TokenFault> {
        if self.alg != key.algorithm() {
            let (found, wanted) = (shown(&self.alg), key.algorithm());
            return Err(TokenFault::Algorithm { found, wanted });
        }
        if !key.verifies(self.signed.as_bytes(), &self.signature) {
            return Err(TokenFault::Signature);
        }
        let raw: RawClaims = strict(&self.claims).map_err(TokenFault::Claims)?;
        Claims::try_from(raw)
    }
}

/// The claims of a token whose signature is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `iss`: the node that dialled.
    pub node: String,
    /// `aud`: the gateway that it dialled.
    pub audience: String,
    /// `iat`, in Unix seconds.
    pub issued: i64,
    /// `exp`, in Unix seconds.
    pub expires: i64,
    /// `jti`: random, once only.
    pub id: [u8; ID_LEN],
    /// `cb`: the exported keying material of the connection that it was made on.
    pub binding: [u8; BINDING_LEN],
}

impl Claims {
    /// Checks that the token was made by `node`, for one of `audiences` and on the connection whose
    /// exported keying material is `binding`.
    ///
    /// # Errors
    /// [`TokenFault`].
    pub fn check_origin(
        &self,
        node: &NodeName,
        audiences: &[String],
        binding: &[u8; BINDING_LEN],
    ) -> Result<(), TokenFault> {
        if self.node != node.as_str() {
            return Err(TokenFault::Node(shown(&self.node)));
        }
        if !audiences.contains(&self.audience) {
            return Err(TokenFault::Audience(shown(&self.audience)));
        }
        constant_time::verify_slices_are_equal(&self.binding, binding)
            .map_err(|_differ| TokenFault::Binding)
    }

    /// Checks that `now` lies in the token's life, give or take [`LEEWAY`].
    ///
    /// # Errors
    /// [`TokenFault::Lifetime`] or [`TokenFault::Skew`].
    pub fn check_time(&self, now: SystemTime) -> Result<(), TokenFault> {
        let life = self.expires.saturating_sub(self.issued);
        if !(1..=seconds(LIFETIME)).contains(&life) {
            return Err(TokenFault::Lifetime(life));
        }
        let now = unix(now)
            .and_then(|now| i64::try_from(now).ok())
            .unwrap_or(0);
        let early = now < self.issued.saturating_sub(seconds(LEEWAY));
        let late = now > self.expires.saturating_add(seconds(LEEWAY));
        match early || late {
            true => Err(TokenFault::Skew {
                seconds: self.issued.saturating_sub(now),
            }),
            false => Ok(()),
        }
    }
}

impl TryFrom<RawClaims> for Claims {
    type Error = TokenFault;

    fn try_from(raw: RawClaims) -> Result<Self, TokenFault> {
        let wrong = |claim: &str| TokenFault::Claims(format!("`{claim}` is out of range"));
        Ok(Self {
            issued: i64::try_from(raw.iat).map_err(|_big| wrong("iat"))?,
            expires: i64::try_from(raw.exp).map_err(|_big| wrong("exp"))?,
            id: fixed(&raw.jti).ok_or_else(|| wrong("jti"))?,
            binding: fixed(&raw.cb).ok_or_else(|| wrong("cb"))?,
            node: raw.iss,
            audience: raw.aud,
        })
    }
}

/// Base64url without padding (RFC 7515 §2); left-over bits must be zero, so each value has one spelling.
fn decode(part: &str) -> Result<Vec<u8>, TokenFault> {
    match URL_SAFE_NO_PAD.decode(part) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        Ok(_) => Err(TokenFault::Shape("an empty part")),
        Err(_where) => Err(TokenFault::Shape("not base64url")),
    }
}

/// Reads a JSON object whose fields are all known, present, of the right type and there once. Serde would
/// also read a struct from an array, hence the look at the first byte.
fn strict<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    if json.first() != Some(&b'{') || json.last() != Some(&b'}') {
        return Err("not a JSON object".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| shown(&error.to_string()))
}

fn fixed<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// Foreign text, cut and escaped for the log.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_SHOWN)
        .flat_map(char::escape_debug)
        .collect()
}

fn unix(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
