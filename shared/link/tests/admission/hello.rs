//! What a hello must prove beside its token, and what it is told when it does not.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sallyport_link::token::Grant;
use sallyport_link::{Admission, GatewayFile, Key, NodeIdentity};
use sallyport_wire::message::{Hello, Rotate};
use sallyport_wire::{Code, Glob, NodeName, Scope};

use crate::pair::{AUDIENCE, BINDING, NODE, Pair};

#[test]
fn an_admitted_relay_is_who_it_said() {
    let pair = Pair::new();

    let admitted = pair.check(&pair.mint()).expect("a good hello");

    assert_eq!((admitted.node.as_str(), admitted.generation), (NODE, 7));
    assert_eq!(
        (&admitted.kid, &admitted.node_key),
        (&pair.key.kid, pair.identity.public())
    );
    assert_eq!((admitted.version, admitted.successor_of), (1, None));
}

#[test]
fn a_token_works_once() {
    let pair = Pair::new();
    let token = pair.mint();
    assert!(pair.check(&token).is_ok());

    let refused = pair.refused(&token);

    assert_eq!(refused.code, Code::Unauthorised);
    assert!(refused.cause.contains("used before"), "{refused}");
}

#[test]
fn a_token_of_another_connection_is_refused_also_by_a_gateway_that_never_saw_it() {
    let pair = Pair::new();
    let hello = pair.hello(&pair.mint());
    let restarted = Admission::new(pair.ring.clone(), vec![AUDIENCE.to_owned()]);
    let other = *b"keying material of another conn.";

    let refused = restarted
        .check(&hello, &other, pair.now)
        .expect_err("stolen");

    assert_eq!(refused.code, Code::Unauthorised);
    assert!(refused.cause.contains("another connection"), "{refused}");
}

#[test]
fn clocks_may_differ_by_the_leeway_and_only_a_relay_with_the_key_hears_more() {
    let pair = Pair::new();
    let at = |offset: i64| {
        let step = Duration::from_secs(offset.unsigned_abs());
        let now = if offset < 0 {
            pair.now - step
        } else {
            pair.now + step
        };
        pair.admission
            .check(&pair.hello(&pair.mint()), &BINDING, now)
    };
    for fine in [-30, 0, 60, 90] {
        assert!(at(fine).is_ok(), "{fine}");
    }
    for (off, skew) in [(-31, 31), (91, -91), (600, -600), (-600, 600)] {
        let refused = at(off).expect_err("too far");
        assert_eq!(
            (refused.code, refused.skew),
            (Code::ClockSkew, Some(skew)),
            "{refused}"
        );
    }
    let mut forged = pair.mint();
    forged.truncate(forged.len() - 4);
    let late = pair.now + Duration::from_secs(600);
    let refused = pair
        .admission
        .check(&pair.hello(&forged), &BINDING, late)
        .expect_err("forged");
    assert_eq!((refused.code, refused.skew), (Code::Unauthorised, None));
}

#[test]
fn the_node_key_must_have_signed_this_very_token() {
    let pair = Pair::new();
    let stranger = Pair::new();
    let token = pair.mint();
    let good = pair.hello(&token);
    let bad = [
        Hello {
            proof: stranger.identity.sign(token.as_bytes()),
            ..good.clone()
        },
        Hello {
            proof: pair.identity.sign(b"another token"),
            ..good.clone()
        },
        Hello {
            node_key: Bytes::copy_from_slice(stranger.identity.public()),
            ..good.clone()
        },
        Hello {
            proof: Bytes::new(),
            ..good.clone()
        },
        Hello {
            node_key: Bytes::from_static(&[0; 31]),
            ..good.clone()
        },
        Hello {
            node_key: Bytes::from_static(&[0; 32]),
            ..good
        },
    ];
    for hello in bad {
        let gateway = Admission::new(pair.ring.clone(), vec![AUDIENCE.to_owned()]);
        let refused = gateway
            .check(&hello, &BINDING, pair.now)
            .expect_err("no proof");
        assert_eq!(refused.code, Code::Unauthorised);
        assert!(refused.cause.contains("node key"), "{refused}");
    }
}

#[test]
fn a_key_is_good_for_its_nodes_until_it_ends() {
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_010);
    let scope = Scope {
        nodes: Glob::new("gpu-*"),
        ..Scope::default()
    };
    let narrow = Pair::with(Key::generate(scope, None).expect("randomness"));
    let short = Pair::with(Key::generate(Scope::default(), Some(ends.into())).expect("randomness"));

    let refused = narrow.refused(&narrow.mint());
    assert_eq!(
        (refused.code, &refused.kid),
        (Code::OutOfScope, &Some(narrow.key.kid))
    );
    assert!(refused.cause.contains("gpu-*"), "{refused}");

    assert!(short.check(&short.mint()).is_ok());
    let late = short
        .admission
        .check(&short.hello(&short.mint()), &BINDING, ends);
    let late = late.expect_err("the key has ended");
    assert_eq!(late.code, Code::Unauthorised);
    assert!(late.cause.contains("expired"), "{late}");
}

#[test]
fn keys_rotate_without_a_tunnel_lost() {
    let pair = Pair::new();
    let admitted = pair.check(&pair.mint()).expect("the old key");
    let new = Key::generate(Scope::default(), None).expect("randomness");
    let node: NodeName = NODE.parse().expect("a node name");
    let grant = Grant {
        node: &node,
        audience: AUDIENCE,
        binding: &BINDING,
    };
    let renewal = |identity: &NodeIdentity| {
        let proof = identity.prove(&new, &grant, pair.now).expect("a proof");
        Rotate {
            token: proof.token,
            proof: proof.proof,
        }
    };
    let renew = |rotate: &Rotate| pair.admission.renew(&admitted, rotate, &BINDING, pair.now);

    assert_eq!(
        renew(&renewal(&pair.identity))
            .expect_err("not added yet")
            .code,
        Code::Unauthorised
    );
    pair.ring.reload(&[pair.key.clone(), new.clone()]);
    let renewed = renew(&renewal(&pair.identity)).expect("added");
    assert_eq!((&renewed.kid, &renewed.node), (&new.kid, &admitted.node));
    assert!(
        renew(&renewal(&Pair::new().identity)).is_err(),
        "another node key"
    );

    pair.ring.reload(std::slice::from_ref(&new));
    assert!(pair.refused(&pair.mint()).cause.contains("no such key"));
    assert!(renew(&renewal(&pair.identity)).is_ok());
}

#[test]
fn what_cannot_be_remembered_is_refused() {
    let pair = Pair::new();
    let gateway = Admission::new(pair.ring.clone(), vec![AUDIENCE.to_owned()]).with_memory(12);
    let check = |now| gateway.check(&pair.hello(&pair.mint()), &BINDING, now);
    for _ in 0..3 {
        assert!(check(pair.now).is_ok());
    }

    let refused = check(pair.now).expect_err("full");

    assert_eq!(refused.code, Code::Limit);
    let other = Key::generate(Scope::default(), None).expect("randomness");
    pair.ring.reload(&[pair.key.clone(), other.clone()]);
    let token = Pair::with(other).mint();
    assert!(
        gateway
            .check(&pair.hello(&token), &BINDING, pair.now)
            .is_ok(),
        "another key has its own share"
    );
}

/// What is wrong with a hello whose token is right, the code that its relay hears, and a word of the cause.
type Misfit = (fn(&mut Hello), Code, &'static str);

const MISFITS: &[Misfit] = &[
    (
        |hello| (hello.oldest, hello.newest) = (2, 3),
        Code::Incompatible,
        "versions 2 to 3",
    ),
    (
        |hello| (hello.oldest, hello.newest) = (0, 0),
        Code::Incompatible,
        "versions 0 to 0",
    ),
    (
        |hello| hello.required = vec!["teleport".to_owned()],
        Code::Incompatible,
        "`teleport`",
    ),
    (
        |hello| hello.features = vec!["x".to_owned(); 65],
        Code::Protocol,
        "too many",
    ),
    (
        |hello| hello.features = vec!["x".repeat(129)],
        Code::Protocol,
        "not plain",
    ),
    (
        |hello| hello.site = "x".repeat(129),
        Code::Protocol,
        "not plain",
    ),
    (
        |hello| hello.software = "line\nbreak".to_owned(),
        Code::Protocol,
        "not plain",
    ),
    (|hello| hello.generation = 0, Code::Protocol, "generation"),
    (|hello| hello.successor_of = 7, Code::Protocol, "generation"),
];

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_relay_that_is_known_is_told_what_does_not_fit() {
    let pair = Pair::new();
    for (spoil, code, cause) in MISFITS {
        let mut hello = pair.hello(&pair.mint());
        spoil(&mut hello);
        let refused = pair
            .admission
            .check(&hello, &BINDING, pair.now)
            .expect_err(cause);
        assert_eq!(refused.code, *code, "{refused}");
        assert!(refused.cause.contains(cause), "{refused}");
        assert_eq!(refused.kid.as_ref(), Some(&pair.key.kid));
    }
}

#[test]
fn both_sides_keep_to_what_both_have() {
    let pair = Pair::new();
    let gateway = Admission::new(pair.ring.clone(), vec![AUDIENCE.to_owned()])
        .with_features(names(&["resume", "datagrams"]));
    let hello = Hello {
        newest: 9,
        successor_of: 6,
        features: names(&["datagrams", "unheard-of"]),
        required: names(&["resume"]),
        ..pair.hello(&pair.mint())
    };

    let admitted = gateway
        .check(&hello, &BINDING, pair.now)
        .expect("all that is required is there");

    assert_eq!((admitted.version, admitted.successor_of), (1, Some(6)));
    assert_eq!(admitted.features, ["datagrams"]);
}

#[test]
fn a_node_name_that_is_none_is_a_stranger() {
    let pair = Pair::new();
    for name in ["", "Node-1", "../x", "a\nb", &"x".repeat(300)] {
        let hello = Hello {
            node: name.to_owned(),
            ..pair.hello(&pair.mint())
        };
        let refused = pair
            .admission
            .check(&hello, &BINDING, pair.now)
            .expect_err(name);
        assert_eq!(refused.code, Code::Unauthorised);
        assert!(
            !refused.node.contains('\n') && refused.node.len() <= 160,
            "{}",
            refused.node
        );
    }
}
#[test]
fn tokens_are_what_other_implementations_read() {
    for key in [
        Key::generate(Scope::default(), None),
        Key::generate_pair(Scope::default(), None),
    ] {
        let mut pair = Pair::with(key.expect("randomness"));
        pair.now = SystemTime::now();
        let other = match &pair.key.public_half().map(|half| half.material) {
            Some(sallyport_link::key::Material::Public(public)) => {
                jsonwebtoken::DecodingKey::from_ed_der(public)
            }
            _ => secret_of(&pair.key),
        };
        let algorithm = pair.key.algorithm().parse().expect("an algorithm");
        let mut validation = jsonwebtoken::Validation::new(algorithm);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[NODE]);

        let read = jsonwebtoken::decode::<serde_json::Value>(pair.mint(), &other, &validation);

        let read = read.expect("a JWT");
        assert_eq!(read.header.kid.as_ref(), Some(&pair.key.kid));
        let time = |claim: &str| read.claims.get(claim).and_then(serde_json::Value::as_u64);
        assert_eq!(time("exp"), time("iat").map(|iat| iat + 60));
    }
}

/// The secret as the file has it, which is the only way that it leaves the program.
fn secret_of(key: &Key) -> jsonwebtoken::DecodingKey {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("gateway.json");
    let file = GatewayFile {
        gateways: Vec::new(),
        keys: vec![key.clone()],
    };
    file.save_new(&path).expect("written");
    let text = std::fs::read_to_string(path).expect("read");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let secret = json
        .pointer("/keys/0/secret")
        .and_then(|secret| secret.as_str());
    let bytes = URL_SAFE_NO_PAD
        .decode(secret.expect("a secret"))
        .expect("base64url");
    jsonwebtoken::DecodingKey::from_secret(&bytes)
}
