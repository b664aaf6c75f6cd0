//! A gateway and a relay that share a key.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sallyport_link::token::{self, Grant};
use sallyport_link::{Admission, Admitted, Key, KeyRing, NodeIdentity, NotAdmitted};
use sallyport_wire::Scope;
use sallyport_wire::message::Hello;

pub(crate) const AUDIENCE: &str = "https://gw.example.org";
pub(crate) const BINDING: [u8; 32] = *b"exported keying material of conn";
pub(crate) const NODE: &str = "node-1";

/// A gateway with one key, and a relay that has it.
pub(crate) struct Pair {
    pub(crate) admission: Admission,
    pub(crate) ring: KeyRing,
    pub(crate) key: Key,
    pub(crate) identity: NodeIdentity,
    pub(crate) now: SystemTime,
    _state: tempfile::TempDir,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(Key::generate(Scope::default(), None).expect("randomness"))
    }

    pub(crate) fn with(key: Key) -> Self {
        let ring = KeyRing::new(&[key.public_half().unwrap_or_else(|| key.clone())]);
        let state = tempfile::tempdir().expect("a directory");
        Self {
            admission: Admission::new(ring.clone(), vec![AUDIENCE.to_owned()]),
            ring,
            key,
            identity: NodeIdentity::load_or_create(state.path()).expect("a new identity"),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            _state: state,
        }
    }

    pub(crate) fn mint(&self) -> String {
        let node = NODE.parse().expect("a node name");
        let grant = Grant {
            node: &node,
            audience: AUDIENCE,
            binding: &BINDING,
        };
        token::mint(&self.key, &grant, self.now).expect("a token")
    }

    pub(crate) fn hello(&self, token: &str) -> Hello {
        Hello {
            oldest: 1,
            newest: 1,
            node: NODE.to_owned(),
            generation: 7,
            token: token.to_owned(),
            node_key: Bytes::copy_from_slice(self.identity.public()),
            proof: self.identity.sign(token.as_bytes()),
            ..Hello::default()
        }
    }

    pub(crate) fn check(&self, token: &str) -> Result<Admitted, NotAdmitted> {
        self.admission.check(&self.hello(token), &BINDING, self.now)
    }

    pub(crate) fn refused(&self, token: &str) -> NotAdmitted {
        match self.check(token) {
            Err(refused) => refused,
            Ok(_) => panic!("admitted: {token:.80}"),
        }
    }
}
