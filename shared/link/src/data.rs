//! Data connections: bare TCP beside a tunnel that carries one stream, which is encrypted from end to end.
//!
//! Whoever is on the way sees and may change what travels here, so the invitation's token does not: each side proves
//! that it has it, over nonces of both, and says under the same proof from which byte on it sends here. What ends a
//! direction is never said here.

use std::fmt;
use std::io;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use bytes::Bytes;
use sallyport_ops::listen::tune_beside;
use sallyport_splice::Rewound;
use sallyport_wire::DATA_PREAMBLE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Bytes of a token.
const TOKEN: usize = 32;

/// Bytes of a nonce.
const NONCE: usize = 32;

/// Bytes of a proof.
const PROOF: usize = 32;

/// Bytes of a turn: the place in the stream, and its proof.
pub(crate) const TURN: usize = 8 + PROOF;

/// Says that a direction is not turned to the data connection, because it has ended or will soon.
pub(crate) const STAYS: u64 = u64::MAX;

/// A relay whose stream does not take a proven connection within this time drops it; the gateway waits longer.
const FRESH: Duration = Duration::from_secs(2);

/// What an invitation is looked up by; anybody may know it.
pub type Id = [u8; 16];

/// The secret of one invitation.
pub struct Token(Zeroizing<[u8; TOKEN]>);

impl Token {
    /// A new one; none if the system has no randomness.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut token = Zeroizing::new([0; TOKEN]);
        rand::fill(&mut *token).ok()?;
        Some(Self(token))
    }

    /// One that was received; none if it has another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes
            .try_into()
            .ok()
            .map(|token| Self(Zeroizing::new(token)))
    }

    /// As it goes over the control stream.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&*self.0)
    }

    /// What its connection is known by before it is proven.
    #[must_use]
    pub fn id(&self) -> Id {
        let tag = hmac::sign(&self.key(), b"id");
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Who says something on a data connection, so that nothing can be sent back to its author.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Says {
    /// The gateway, that it knows the token.
    Gateway,
    /// The relay, from which byte on it sends here.
    RelayTurns,
    /// The gateway, the same.
    GatewayTurns,
}

impl Says {
    const fn word(self) -> &'static [u8] {
        match self {
            Self::Gateway => b"gateway",
            Self::RelayTurns => b"relay turns",
            Self::GatewayTurns => b"gateway turns",
        }
    }
}

/// What proofs on one connection are made and checked with.
pub(crate) struct Keys {
    key: hmac::Key,
    nonces: [[u8; NONCE]; 2],
}

impl Keys {
    fn context(&self, says: Says, place: &[u8]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.key);
        let [relay, gateway] = &self.nonces;
        for part in [says.word(), relay, gateway, place] {
            context.update(part);
        }
        context
    }

    fn proof(&self, says: Says, place: &[u8]) -> [u8; PROOF] {
        let tag = self.context(says, place).sign();
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }

    fn is_proven(&self, says: Says, place: &[u8], proof: &[u8]) -> bool {
        let made = self.context(says, place).sign();
        aws_lc_rs::constant_time::verify_slices_are_equal(made.as_ref(), proof).is_ok()
    }

    /// Says from which byte on a side sends here.
    pub(crate) fn turn(&self, says: Says, place: u64) -> [u8; TURN] {
        let mut turn = [0; TURN];
        let place = place.to_be_bytes();
        let proof = self.proof(says, &place);
        for (to, from) in turn.iter_mut().zip(place.iter().chain(&proof)) {
            *to = *from;
        }
        turn
    }

    /// From which byte on the other side sends here.
    pub(crate) fn turned(&self, says: Says, turn: &[u8; TURN]) -> io::Result<u64> {
        let (place, proof) = turn.split_first_chunk::<8>().ok_or_else(unproven)?;
        if !self.is_proven(says, place, proof) {
            return Err(unproven());
        }
        Ok(u64::from_be_bytes(*place))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

fn unproven() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "a data connection without proof",
    )
}

/// A data connection on which both sides have proven that they know the token.
///
/// A relay that has one has said nothing yet about where it turns; a gateway has read where the relay did, and owes it
/// an answer: one that is dropped unused says that the gateway stays on the tunnel.
#[derive(Debug)]
pub struct DataConnection {
    pub(crate) io: TcpStream,
    pub(crate) keys: Keys,
    role: Role,
    proven: Instant,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Relay,
    Gateway {
        /// Where the relay turned.
        turned: u64,
        /// Whether the answer is owed.
        owing: bool,
    },
}

/// The relay's side: knocks at the gateway's port.
///
/// # Errors
/// If the gateway does not know the token, or cannot be understood.
pub async fn knock(
    mut io: TcpStream,
    token: &Token,
    place: OwnedSemaphorePermit,
) -> io::Result<DataConnection> {
    let mut ours = [0; NONCE];
    rand::fill(&mut ours).map_err(io::Error::other)?;
    let knock = [DATA_PREAMBLE.as_slice(), &token.id(), &ours].concat();
    io.write_all(&knock).await?;
    let (mut theirs, mut proof) = ([0; NONCE], [0; PROOF]);
    io.read_exact(&mut theirs).await?;
    io.read_exact(&mut proof).await?;
    let keys = Keys {
        key: token.key(),
        nonces: [ours, theirs],
    };
    if !keys.is_proven(Says::Gateway, &[], &proof) {
        return Err(unproven());
    }
    tune_beside(&io)?;
    Ok(DataConnection {
        io,
        keys,
        role: Role::Relay,
        proven: Instant::now(),
        _place: place,
    })
}

/// An invitation that a connection was found to belong to, with `to` as its owner's own note.
#[derive(Debug)]
pub struct Invited<T> {
    /// Its secret.
    pub token: Token,
    /// The connection's place.
    pub place: OwnedSemaphorePermit,
    /// Whatever else is known of it.
    pub to: T,
}

/// The gateway's side: answers a connection that began with the preamble, if `find` knows its invitation.
///
/// # Errors
/// If it does not, or the other side proves nothing, or breaks off. Nothing was answered to one without an invitation.
pub async fn answer<T>(
    mut io: Rewound<TcpStream>,
    find: impl FnOnce(&Id) -> Option<Invited<T>>,
) -> io::Result<(DataConnection, T)> {
    let (mut preamble, mut id, mut theirs) = ([0; DATA_PREAMBLE.len()], Id::default(), [0; NONCE]);
    io.read_exact(&mut preamble).await?;
    io.read_exact(&mut id).await?;
    let invited = find(&id).ok_or_else(unproven)?;
    io.read_exact(&mut theirs).await?;
    let (early, mut io) = io.into_parts();
    if !early.is_empty() {
        return Err(unproven()); // it cannot know our nonce
    }
    let mut ours = [0; NONCE];
    rand::fill(&mut ours).map_err(io::Error::other)?;
    let keys = Keys {
        key: invited.token.key(),
        nonces: [theirs, ours],
    };
    let proof = keys.proof(Says::Gateway, &[]);
    io.write_all(&[ours, proof].concat()).await?;
    let mut turn = [0; TURN];
    io.read_exact(&mut turn).await?;
    let turned = keys.turned(Says::RelayTurns, &turn)?;
    tune_beside(&io)?;
    let connection = DataConnection {
        io,
        keys,
        role: Role::Gateway {
            turned,
            owing: true,
        },
        proven: Instant::now(),
        _place: invited.place,
    };
    Ok((connection, invited.to))
}

impl DataConnection {
    /// Whether it may still be used: the gateway waits for a relay's turn, but not for ever.
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self.role, Role::Gateway { .. }) || self.proven.elapsed() < FRESH
    }

    /// Where the other side turned, where that is known: at a gateway.
    pub(crate) const fn turned(&self) -> Option<u64> {
        match self.role {
            Role::Relay => None,
            Role::Gateway { turned, .. } => Some(turned),
        }
    }

    /// What this side says about where it turns. It must be sent.
    pub(crate) fn turn(&mut self, place: u64) -> [u8; TURN] {
        let says = match &mut self.role {
            Role::Relay => Says::RelayTurns,
            Role::Gateway { owing, .. } => {
                *owing = false;
                Says::GatewayTurns
            }
        };
        self.keys.turn(says, place)
    }
}

impl Drop for DataConnection {
    fn drop(&mut self) {
        if matches!(self.role, Role::Gateway { owing: true, .. }) {
            let stays = self.turn(STAYS);
            // Nothing was written before, so there is room unless the relay is gone.
            if self.io.try_write(&stays).is_err() {
                tracing::trace!("a relay that came too late is gone");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;

    fn place() -> OwnedSemaphorePermit {
        let places = Arc::new(Semaphore::new(1));
        places.try_acquire_owned().expect("a place")
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (dialled.expect("connected"), accepted.expect("accepted").0)
    }

    fn token(byte: u8) -> Token {
        Token::from_bytes(&[byte; TOKEN]).expect("its length")
    }

    async fn answered(io: TcpStream, ours: Token) -> io::Result<DataConnection> {
        let find = |id: &Id| {
            let place = place();
            (*id == ours.id()).then_some(Invited {
                token: ours,
                place,
                to: (),
            })
        };
        let answered = answer(Rewound::new(Bytes::new(), io), find).await;
        answered.map(|(connection, ())| connection)
    }

    #[tokio::test]
    async fn both_prove_the_token_and_the_relay_says_where_it_turns() {
        let (relay, gateway) = pair().await;
        let relay = async {
            let mut connection = knock(relay, &token(1), place()).await.expect("proven");
            let turn = connection.turn(77);
            connection.io.write_all(&turn).await.expect("written");
            connection
        };
        let (relay, gateway) = tokio::join!(relay, answered(gateway, token(1)));
        let gateway = gateway.expect("proven");
        assert_eq!((relay.turned(), gateway.turned()), (None, Some(77)));
    }

    #[tokio::test]
    async fn a_gateway_that_drops_it_says_that_it_stays() {
        let (relay, gateway) = pair().await;
        let relay = async {
            let mut connection = knock(relay, &token(1), place()).await.expect("proven");
            let turn = connection.turn(0);
            connection.io.write_all(&turn).await.expect("written");
            let mut said = [0; TURN];
            connection
                .io
                .read_exact(&mut said)
                .await
                .expect("an answer");
            connection.keys.turned(Says::GatewayTurns, &said)
        };
        let gateway = async { drop(answered(gateway, token(1)).await.expect("proven")) };
        let (said, ()) = tokio::join!(relay, gateway);
        assert_eq!(said.expect("proven"), STAYS);
    }

    #[tokio::test]
    async fn who_only_knows_the_id_is_refused() {
        // What somebody on the way has seen: the id, here with a nonce of his own, and a turn of another connection.
        let (mut thief, gateway) = pair().await;
        let seen = Keys {
            key: token(1).key(),
            nonces: [[0; NONCE], [9; NONCE]],
        };
        let thief = async {
            let knock = [DATA_PREAMBLE.as_slice(), &token(1).id(), &[0; NONCE]].concat();
            thief.write_all(&knock).await.expect("written");
            let mut answer = [0; NONCE + PROOF];
            thief.read_exact(&mut answer).await.expect("an answer");
            let turn = seen.turn(Says::RelayTurns, 0);
            thief.write_all(&turn).await.expect("written");
        };
        let ((), refused) = tokio::join!(thief, answered(gateway, token(1)));
        let refused = refused.expect_err("no proof");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn an_unknown_id_gets_no_answer() {
        let (relay, gateway) = pair().await;
        let place = place();
        let other = token(2);
        let (knocked, answered) =
            tokio::join!(knock(relay, &other, place), answered(gateway, token(1)));
        assert!(answered.is_err());
        assert!(knocked.is_err());
    }

    #[tokio::test]
    async fn a_gateway_that_does_not_know_the_token_is_not_believed() {
        let (relay, mut gateway) = pair().await;
        let gateway = async {
            let mut knock = [0; 64];
            gateway.read_exact(&mut knock).await.expect("a knock");
            gateway.write_all(&[7; 64]).await.expect("written");
            gateway
        };
        let token = token(1);
        let (knocked, _gateway) = tokio::join!(knock(relay, &token, place()), gateway);
        assert!(knocked.is_err());
    }

    #[test]
    fn a_proof_is_for_one_speaker_and_one_place() {
        let keys = Keys {
            key: token(1).key(),
            nonces: [[1; NONCE], [2; NONCE]],
        };
        let turn = keys.turn(Says::RelayTurns, 5);
        assert_eq!(keys.turned(Says::RelayTurns, &turn).expect("proven"), 5);
        assert!(keys.turned(Says::GatewayTurns, &turn).is_err());
        for place in 0..TURN {
            let mut changed = turn;
            if let Some(byte) = changed.get_mut(place) {
                *byte ^= 1;
            }
            assert!(keys.turned(Says::RelayTurns, &changed).is_err(), "{place}");
        }
    }
}
