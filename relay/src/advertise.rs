//! What this relay offers to a gateway, and what became of an offer.

use prost::Message as _;
use sallyport_wire::message::{Advertise, Advertised, Offer};
use sallyport_wire::{Code, MAX_CONTROL};
use tracing::{debug, warn};

use crate::directory::MAX_OFFERS;
use crate::sessions::{Session, Sessions};

/// Room in a message for what stands around its offers.
const AROUND: usize = 64;

/// What to do where a gateway's key does not allow for sessions of other nodes.
pub const NEEDS_VIA: &str = "run `sallyport-gateway key add --via` on the gateway and copy its gateway.json here anew (or \
                             connect each node to the gateway itself)";

/// All sessions of the node as one advertisement, which replaces the one before as a whole, and as many of `others`, which
/// other nodes have, as fit into it.
#[must_use]
pub fn offers(sessions: &Sessions, others: Vec<Offer>, revision: u64, draining: bool) -> Advertise {
    let leaves = sessions.is_draining();
    let home = sessions.iter().map(|session| offer(session, leaves));
    let home: Vec<Offer> = home.collect();
    let via = fitting(sessions, &home, others);
    debug!(
        revision,
        own = home.len(),
        of_others = via.len(),
        draining,
        "telling the sessions"
    );
    Advertise {
        revision,
        home,
        via,
        draining,
        direct_url: String::new(),
        generation: 0,
    }
}

/// What other nodes are told: the sessions of this node, where clients reach them, and the process that takes tickets for
/// them.
#[must_use]
pub fn to_nodes(
    (sessions, generation): (&Sessions, u64),
    revision: u64,
    draining: bool,
) -> Advertise {
    let direct_url = sessions.direct_url();
    Advertise {
        direct_url: direct_url.map(ToString::to_string).unwrap_or_default(),
        generation,
        ..offers(sessions, Vec::new(), revision, draining)
    }
}

/// As many of `others` as fit into a message beside `home`.
fn fitting(sessions: &Sessions, home: &[Offer], others: Vec<Offer>) -> Vec<Offer> {
    let mut room = MAX_CONTROL.saturating_sub(AROUND);
    let taken: usize = home.iter().map(size).sum();
    room = room.saturating_sub(taken);
    let mut most = MAX_OFFERS.saturating_sub(home.len());
    let mut left_out = 0_usize;
    let mut via = Vec::new();
    for other in others {
        if sessions.iter().any(|own| own.id().as_str() == other.id) {
            continue;
        }
        let size = size(&other);
        if size > room || most == 0 {
            left_out = left_out.saturating_add(1);
            continue;
        }
        room = room.saturating_sub(size);
        most = most.saturating_sub(1);
        via.push(other);
    }
    if left_out > 0 {
        warn!(
            left_out,
            "not all sessions of other nodes fit into one message: these are not offered to gateways"
        );
    }
    via
}

/// Bytes that an offer takes in a message, its field and length included.
fn size(offer: &Offer) -> usize {
    let bytes = offer.encoded_len();
    bytes
        .saturating_add(prost::length_delimiter_len(bytes))
        .saturating_add(1)
}

/// The sessions that were not taken, with the reason.
#[must_use]
pub fn refusals(answer: &Advertised) -> Vec<(String, Code)> {
    answer
        .refused
        .iter()
        .map(|refused| (refused.id.clone(), Code::from_number(refused.code)))
        .collect()
}

/// On a node that drains, a pool's new clients go to its other members. A session that is nowhere else stays as it is.
fn weight(session: &Session, leaves: bool) -> u32 {
    if leaves && session.config.pool.is_some() {
        0
    } else {
        session.config.weight
    }
}

fn offer(session: &Session, leaves: bool) -> Offer {
    let config = &session.config;
    Offer {
        id: config.id.to_string(),
        protocol: config.protocol.into(),
        pool: config
            .pool
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        keep_prefix: !config.strip_prefix,
        down: session.is_down(),
        weight: weight(session, leaves),
        trusted: config.trusted,
        anonymous: config.anonymous(),
        blind: config.blind(),
        answer_within: config.answer_within,
        node: String::new(),
        sticky: config.sticky.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sallyport_wire::message::{Control, ControlKind, Protocol, Sticky};

    use super::*;
    use crate::config::Config;

    #[test]
    fn an_offer_says_what_the_configuration_and_the_health_check_say() {
        let text = "node = \"n\"\n[[session]]\nid = \"a\"\nprotocol = \"vnc\"\ntarget = \"127.0.0.1:1\"\nstrip_prefix = false\n\
                    pool = \"p\"\nweight = 0\nanswer_within = 7\ntrusted = false\ntls = { cert = \"c\", key = \"k\" }\n\
                    [[session]]\nid = \"b\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:1\"\naccess = \"public\"\n\
                    pool = \"q\"\nsticky = \"cookie\"\n";
        let config = Config::parse(text, Path::new("relay.toml")).expect("loads");
        let sessions = Sessions::new(config.sessions.into_iter().map(|s| Session::new(s, None)));
        let b = sessions.locate(&"b".parse().expect("an id")).expect("here");
        sessions.set_down(b, true);

        let said = offers(&sessions, Vec::new(), 3, true);

        assert_eq!((said.revision, said.draining), (3, true));
        let a = &said.home[0];
        assert_eq!((a.protocol(), a.pool.as_str()), (Protocol::Vnc, "p"));
        assert!(a.keep_prefix && a.blind && !a.trusted && !a.anonymous && !a.down);
        assert_eq!((a.weight, a.answer_within), (0, 7));
        assert_eq!(a.sticky(), Sticky::Unset);
        let b = &said.home[1];
        assert!(b.down && b.anonymous && b.trusted && !b.keep_prefix && !b.blind);
        assert_eq!((b.weight, b.answer_within), (100, 0));
        assert_eq!(b.sticky(), Sticky::Cookie);
    }

    #[test]
    fn a_node_that_drains_offers_no_more_of_a_pool() {
        let session = |id| {
            format!("[[session]]\nid = \"{id}\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:1\"\n")
        };
        let text = format!(
            "node = \"n\"\n{}pool = \"p\"\n{}",
            session("a"),
            session("b")
        );
        let config = Config::parse(&text, Path::new("relay.toml")).expect("loads");
        let sessions = Sessions::new(config.sessions.into_iter().map(|s| Session::new(s, None)));
        let weights = || {
            let said = offers(&sessions, Vec::new(), 1, false);
            [said.home[0].weight, said.home[1].weight]
        };

        assert!(sessions.set_draining(true) && !sessions.set_draining(true));
        assert_eq!(weights(), [0, 100]);
        assert!(sessions.set_draining(false));
        assert_eq!(weights(), [100, 100]);
    }

    #[test]
    fn sessions_of_other_nodes_are_offered_as_far_as_they_fit() {
        let text = "node = \"n\"\n[[session]]\nid = \"own\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:1\"\n";
        let config = Config::parse(text, Path::new("relay.toml")).expect("loads");
        let sessions = Sessions::new(config.sessions.into_iter().map(|s| Session::new(s, None)));
        let other = |id: &str| Offer {
            id: id.to_owned(),
            node: "another-node.cluster.example.org".to_owned(),
            ..Offer::default()
        };

        let said = offers(&sessions, vec![other("own"), other("desk")], 1, false);
        let via: Vec<_> = said.via.iter().map(|offer| offer.id.as_str()).collect();
        assert_eq!((said.home.len(), via), (1, vec!["desk"]));

        let many = (0..MAX_OFFERS).map(|n| other(&format!("session-with-a-name-{n}")));
        let said = offers(&sessions, many.collect(), u64::MAX, true);
        let kind = Some(ControlKind::Advertise(said));
        let bytes = Control { kind }.encoded_len();
        assert!(bytes <= MAX_CONTROL && bytes > MAX_CONTROL - 200, "{bytes}");
    }
}
