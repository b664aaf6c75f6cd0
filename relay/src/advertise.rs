//! What this relay offers to a gateway, and what became of an offer.

use sallyport_wire::Code;
use sallyport_wire::message::{Advertise, Advertised, Offer};

use crate::sessions::{Session, Sessions};

/// All sessions of the node as one advertisement, which replaces the one before as a whole.
#[must_use]
pub fn offers(sessions: &Sessions, revision: u64, draining: bool) -> Advertise {
    let leaves = sessions.is_draining();
    let home = sessions.iter().map(|session| offer(session, leaves));
    let home = home.collect();
    Advertise {
        revision,
        home,
        via: Vec::new(),
        draining,
    }
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
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sallyport_wire::message::Protocol;

    use super::*;
    use crate::config::Config;

    #[test]
    fn an_offer_says_what_the_configuration_and_the_health_check_say() {
        let text = "node = \"n\"\n[[session]]\nid = \"a\"\nprotocol = \"vnc\"\ntarget = \"127.0.0.1:1\"\nstrip_prefix = false\n\
                    pool = \"p\"\nweight = 0\nanswer_within = 7\ntrusted = false\ntls = { cert = \"c\", key = \"k\" }\n\
                    [[session]]\nid = \"b\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:1\"\naccess = \"public\"\n";
        let config = Config::parse(text, Path::new("relay.toml")).expect("loads");
        let sessions = Sessions::new(config.sessions.into_iter().map(|s| Session::new(s, None)));
        let b = sessions.locate(&"b".parse().expect("an id")).expect("here");
        sessions.set_down(b, true);

        let said = offers(&sessions, 3, true);

        assert_eq!((said.revision, said.draining), (3, true));
        let a = &said.home[0];
        assert_eq!((a.protocol(), a.pool.as_str()), (Protocol::Vnc, "p"));
        assert!(a.keep_prefix && a.blind && !a.trusted && !a.anonymous && !a.down);
        assert_eq!((a.weight, a.answer_within), (0, 7));
        let b = &said.home[1];
        assert!(b.down && b.anonymous && b.trusted && !b.keep_prefix && !b.blind);
        assert_eq!((b.weight, b.answer_within), (100, 0));
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
            let said = offers(&sessions, 1, false);
            [said.home[0].weight, said.home[1].weight]
        };

        assert!(sessions.set_draining(true) && !sessions.set_draining(true));
        assert_eq!(weights(), [0, 100]);
        assert!(sessions.set_draining(false));
        assert_eq!(weights(), [100, 100]);
    }
}
