//! Who may bring a tunnel up: everything that a hello must prove, in the order in which it is checked.
//!
//! A stranger learns nothing: whatever is wrong before the key is proven is [`Code::Unauthorised`], and
//! the cause goes to the log only. Whether the node's name is bound to another node key is for the
//! gateway's registry to say, not for this module.

use std::time::SystemTime;

use sallyport_wire::message::{Hello, Rotate, Welcome};
use sallyport_wire::{BINDING_LEN, Code, NodeName, Scope, VERSIONS};
use time::OffsetDateTime;

use crate::key;
use crate::keyring::KeyRing;
use crate::replay::{MAX_REMEMBERED, Replay, Replays};
use crate::token::{Claims, TokenFault, Unverified, shown};

/// Most features that a hello may name, and most characters of each.
pub const MAX_FEATURES: usize = 64;

/// Most characters of the free texts of a hello: `site`, `software` and each feature.
pub const MAX_TEXT: usize = 128;

/// Checks hellos against the live keys, each token once.
#[derive(Debug)]
pub struct Admission {
    keys: KeyRing,
    audiences: Vec<String>,
    features: Vec<String>,
    replays: Replays,
}

/// A relay that proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Its node.
    pub node: NodeName,
    /// The node's Ed25519 public key.
    pub node_key: [u8; 32],
    /// Which start of the relay's process this is; 0 for a node that answered.
    pub generation: u64,
    /// The generation that this one replaces in an upgrade.
    pub successor_of: Option<u64>,
    /// The key that it proved: look it up again for every claim, it may be gone.
    pub kid: String,
    /// What that key allowed when it was checked.
    pub scope: Scope,
    /// Protocol version to speak.
    pub version: u32,
    /// Features that both sides have.
    pub features: Vec<String>,
    /// Site of the node; empty for none.
    pub site: String,
    /// Version of the relay's program.
    pub software: String,
}

/// A hello that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct NotAdmitted {
    /// What the peer is told.
    pub code: Code,
    /// Why, for the log only.
    pub cause: String,
    /// The node's name as the hello has it, proven or not, fit for the log.
    pub node: String,
    /// The key id, if the token could be read.
    pub kid: Option<String>,
    /// The relay's clock minus ours in seconds, where that is the fault.
    pub skew: Option<i64>,
}

/// What a refused check knows by itself.
struct Fault {
    code: Code,
    cause: String,
    kid: Option<String>,
    skew: Option<i64>,
}

/// A token and its proof that passed every check.
struct Proven {
    node: NodeName,
    node_key: [u8; 32],
    kid: String,
    scope: Scope,
}

/// The part of a hello or a rotation that proves something.
struct Evidence<'a> {
    token: &'a str,
    node_key: &'a [u8],
    proof: &'a [u8],
    binding: &'a [u8; BINDING_LEN],
}

impl Admission {
    /// Admits the relays of `keys` whose tokens are for one of `audiences`
    /// ([`crate::GatewayUrl::audience`]), and remembers [`MAX_REMEMBERED`] tokens.
    #[must_use]
    pub fn new(keys: KeyRing, audiences: Vec<String>) -> Self {
        Self {
            keys,
            audiences,
            features: Vec::new(),
            replays: Replays::new(MAX_REMEMBERED),
        }
    }

    /// With the features that this gateway has.
    #[must_use]
    pub fn with_features(self, features: Vec<String>) -> Self {
        Self { features, ..self }
    }

    /// With room for another number of tokens than [`MAX_REMEMBERED`].
    #[must_use]
    pub fn with_memory(self, tokens: usize) -> Self {
        Self {
            replays: Replays::new(tokens),
            ..self
        }
    }

    /// Checks a relay's first message on the connection with this exported keying material.
    ///
    /// # Errors
    /// [`NotAdmitted`], with what the peer is told apart from what the log says.
    pub fn check(
        &self,
        hello: &Hello,
        binding: &[u8; BINDING_LEN],
        now: SystemTime,
    ) -> Result<Admitted, NotAdmitted> {
        let evidence = Evidence {
            token: &hello.token,
            node_key: &hello.node_key,
            proof: &hello.proof,
            binding,
        };
        let node = shown(&hello.node);
        self.prove(&hello.node, &evidence, now)
            .and_then(|proven| self.agree(hello, proven))
            .map_err(|fault| fault.about(node))
    }

    /// Checks a fresh token on a live tunnel. Node and node key must be those of `before`; the key may be
    /// another one, which is how keys are rotated under load.
    ///
    /// # Errors
    /// [`NotAdmitted`]; the tunnel must then end, except for [`Code::Limit`], which is no fault of the relay:
    /// its last token is good as long as it was.
    pub fn renew(
        &self,
        before: &Admitted,
        rotate: &Rotate,
        binding: &[u8; BINDING_LEN],
        now: SystemTime,
    ) -> Result<Admitted, NotAdmitted> {
        let evidence = Evidence {
            token: &rotate.token,
            node_key: &before.node_key,
            proof: &rotate.proof,
            binding,
        };
        let node = before.node.as_str();
        let proven = self.prove(node, &evidence, now);
        let proven = proven.map_err(|fault| fault.about(node.to_owned()))?;
        Ok(Admitted {
            kid: proven.kid,
            scope: proven.scope,
            ..before.clone()
        })
    }

    /// Checks who answered a hello of this side's on the connection with this exported keying material: `node`, which was
    /// dialled, and nobody else.
    ///
    /// # Errors
    /// [`NotAdmitted`]; the tunnel must then not be used.
    pub fn check_welcome(
        &self,
        node: &NodeName,
        welcome: &Welcome,
        binding: &[u8; BINDING_LEN],
        now: SystemTime,
    ) -> Result<Admitted, NotAdmitted> {
        let proven = self.prove_welcome(node, welcome, binding, now);
        let proven = proven.map_err(|fault| fault.about(node.to_string()))?;
        Ok(Admitted {
            node: proven.node,
            node_key: proven.node_key,
            generation: 0,
            successor_of: None,
            kid: proven.kid,
            scope: proven.scope,
            version: welcome.version,
            features: welcome.features.clone(),
            site: String::new(),
            software: shown(&welcome.software),
        })
    }

    fn prove_welcome(
        &self,
        node: &NodeName,
        welcome: &Welcome,
        binding: &[u8; BINDING_LEN],
        now: SystemTime,
    ) -> Result<Proven, Fault> {
        let stranger = |cause: String| Err(Fault::stranger(cause));
        let Some(identity) = &welcome.identity else {
            return stranger("its welcome says nothing of who it is".to_owned());
        };
        if identity.node != node.as_str() {
            return stranger(format!("it is node `{}`", shown(&identity.node)));
        }
        let evidence = Evidence {
            token: &identity.token,
            node_key: &identity.node_key,
            proof: &identity.proof,
            binding,
        };
        self.prove(node.as_str(), &evidence, now)
    }

    /// Everything up to the scope of the key: after this the relay is who it says.
    fn prove(&self, node: &str, evidence: &Evidence<'_>, now: SystemTime) -> Result<Proven, Fault> {
        let stranger = Fault::stranger;
        let name: NodeName = node.parse().map_err(|e| stranger(format!("{e}")))?;
        let node_key: [u8; 32] = evidence
            .node_key
            .try_into()
            .map_err(|_length| stranger("the node key has not 32 bytes".to_owned()))?;
        let token = Unverified::parse(evidence.token)?;
        let kid = shown(token.kid());
        let proven = self.prove_key(token, &name, evidence, now);
        let scope = proven.map_err(|fault| fault.with_kid(&kid))?;
        if !key::verify_ed25519(&node_key, evidence.token.as_bytes(), evidence.proof) {
            let cause = "the token is not signed by the node key".to_owned();
            return Err(stranger(cause).with_kid(&kid));
        }
        if !scope.nodes.matches(name.as_str()) {
            let cause = format!("the key is for nodes `{}`", scope.nodes);
            return Err(Fault::new(Code::OutOfScope, cause).with_kid(&kid));
        }
        Ok(Proven {
            node: name,
            node_key,
            kid,
            scope,
        })
    }

    /// The token's own checks: key, signature, claims, connection, time, once only.
    fn prove_key(
        &self,
        token: Unverified<'_>,
        node: &NodeName,
        evidence: &Evidence<'_>,
        now: SystemTime,
    ) -> Result<Scope, Fault> {
        let key = self.keys.live(token.kid(), OffsetDateTime::from(now));
        let key = key.map_err(|error| Fault::stranger(error.to_string()))?;
        let claims: Claims = token.verify(&key)?;
        claims.check_origin(node, &self.audiences, evidence.binding)?;
        claims.check_time(now)?;
        self.replays.take(claims.id, &key.kid, now)?;
        Ok(key.scope.clone())
    }

    /// What two sides that trust each other must still agree on.
    fn agree(&self, hello: &Hello, proven: Proven) -> Result<Admitted, Fault> {
        let fault = |code, cause: &str| Fault::new(code, cause.to_owned()).with_kid(&proven.kid);
        let version = hello.newest.min(*VERSIONS.end());
        if version < hello.oldest.max(*VERSIONS.start()) {
            let cause = format!("it speaks versions {} to {}", hello.oldest, hello.newest);
            return Err(fault(Code::Incompatible, &cause));
        }
        if let Some(lacking) = hello
            .required
            .iter()
            .find(|name| !self.features.contains(name))
        {
            let cause = format!("it needs the feature `{}`", shown(lacking));
            return Err(fault(Code::Incompatible, &cause));
        }
        if hello.features.len().max(hello.required.len()) > MAX_FEATURES {
            return Err(fault(Code::Protocol, "it names too many features"));
        }
        let texts = [&hello.site, &hello.software];
        if texts
            .into_iter()
            .chain(&hello.features)
            .any(|text| !is_plain(text))
        {
            return Err(fault(
                Code::Protocol,
                "a text of its hello is too long or not plain",
            ));
        }
        if hello.generation == 0 || hello.successor_of >= hello.generation {
            return Err(fault(Code::Protocol, "its generation does not rise"));
        }
        let shared = hello
            .features
            .iter()
            .filter(|name| self.features.contains(name));
        Ok(Admitted {
            generation: hello.generation,
            successor_of: Some(hello.successor_of).filter(|old| *old != 0),
            version,
            features: shared.cloned().collect(),
            site: hello.site.clone(),
            software: hello.software.clone(),
            node: proven.node,
            node_key: proven.node_key,
            kid: proven.kid,
            scope: proven.scope,
        })
    }
}

impl Fault {
    const fn new(code: Code, cause: String) -> Self {
        Self {
            code,
            cause,
            kid: None,
            skew: None,
        }
    }

    const fn stranger(cause: String) -> Self {
        Self::new(Code::Unauthorised, cause)
    }

    fn with_kid(self, kid: &str) -> Self {
        Self {
            kid: Some(kid.to_owned()),
            ..self
        }
    }

    fn about(self, node: String) -> NotAdmitted {
        let Self {
            code,
            cause,
            kid,
            skew,
        } = self;
        NotAdmitted {
            code,
            cause,
            node,
            kid,
            skew,
        }
    }
}

impl From<TokenFault> for Fault {
    fn from(fault: TokenFault) -> Self {
        let skew = fault.skew();
        Self {
            skew,
            ..Self::new(fault.code(), fault.to_string())
        }
    }
}

impl From<Replay> for Fault {
    fn from(replay: Replay) -> Self {
        let code = match replay {
            Replay::Seen => Code::Unauthorised,
            Replay::Full | Replay::Share => Code::Limit,
        };
        Self::new(code, replay.to_string())
    }
}

/// Printable ASCII of at most [`MAX_TEXT`] characters: it ends up in status pages and logs.
fn is_plain(text: &str) -> bool {
    text.len() <= MAX_TEXT && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}
