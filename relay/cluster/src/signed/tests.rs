use proptest::prelude::*;

use super::*;

const SECRET: [u8; 32] = [7; 32];

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn place() -> Key {
    "servers/n1".parse().expect("a key")
}

fn key(kid: &str, fill: u8) -> ClusterKey {
    ClusterKey::new(kid, &[fill; 32], None).expect("long enough")
}

fn sign(key: ClusterKey, place: &Key, claim: &Claim, payload: &[u8]) -> Bytes {
    let signed = Signer::new([key]).sign(place, claim, payload, now());
    signed.expect("the key is live")
}

fn claim(version: u64) -> Claim {
    Claim {
        owner: "n1".to_owned(),
        version,
        expires: now() + Duration::from_secs(10),
    }
}

fn verifier() -> Verifier {
    Verifier::new([key("k1", 7), key("k2", 8)])
}

#[test]
fn what_a_relay_signed_is_believed_with_any_live_key() {
    let verifier = verifier();
    for (version, key) in [(1, key("k1", 7)), (2, key("k2", 8))] {
        let signed = sign(key, &place(), &claim(version), b"load\n1");
        let believed = verifier.verify(&place(), "n1", &signed, now());
        let believed = believed.expect("believed");
        assert_eq!(
            (believed.claim, believed.payload),
            (claim(version), "load\n1".into())
        );
    }
}

#[test]
fn a_key_that_is_unknown_or_another_of_its_name_is_refused() {
    let signed = sign(key("old", 7), &place(), &claim(1), b"x");
    let refused = verifier().verify(&place(), "n1", &signed, now());
    assert_eq!(refused, Err(Distrust::UnknownKey("old".to_owned())));

    let signed = sign(key("k1", 9), &place(), &claim(1), b"x");
    let refused = verifier().verify(&place(), "n1", &signed, now());
    assert_eq!(refused, Err(Distrust::Forged));
    assert_eq!(
        ClusterKey::new("k", &SECRET[..31], None).err(),
        Some(ShortSecret)
    );
}

#[test]
fn a_value_moved_to_another_place_or_of_another_node_is_refused() {
    let signed = sign(key("k1", 7), &place(), &claim(1), b"x");
    let other: Key = "servers/n2".parse().expect("a key");

    let moved = verifier().verify(&other, "n1", &signed, now());
    assert_eq!(moved, Err(Distrust::Forged));
    let foreign = verifier().verify(&place(), "n2", &signed, now());
    assert_eq!(foreign, Err(Distrust::Foreign("n1".to_owned())));
}

#[test]
fn what_has_expired_is_refused_after_the_leeway() {
    let signed = sign(key("k1", 7), &place(), &claim(1), b"x");
    let last = claim(1).expires + LEEWAY;

    assert!(verifier().verify(&place(), "n1", &signed, last).is_ok());
    let late = verifier().verify(&place(), "n1", &signed, last + Duration::from_millis(1));
    assert_eq!(late, Err(Distrust::Expired));
}

#[test]
fn an_old_version_is_refused_after_a_later_one_and_after_a_rotation() {
    let verifier = verifier();
    let [old, new] = [1, 2].map(|version| sign(key("k1", 7), &place(), &claim(version), b"x"));
    for signed in [&old, &new, &new] {
        assert!(verifier.verify(&place(), "n1", signed, now()).is_ok());
    }

    let replayed = Err(Distrust::Replayed {
        version: 1,
        seen: 2,
    });
    assert_eq!(verifier.verify(&place(), "n1", &old, now()), replayed);
    let rotated = verifier.rotated([key("k1", 7)]);
    assert_eq!(rotated.verify(&place(), "n1", &old, now()), replayed);
}

#[test]
fn another_value_of_the_same_version_is_refused() {
    let verifier = verifier();
    let [one, other] = [b"x", b"y"].map(|payload| sign(key("k1", 7), &place(), &claim(1), payload));
    assert!(verifier.verify(&place(), "n1", &one, now()).is_ok());
    let refused = verifier.verify(&place(), "n1", &other, now());
    assert!(matches!(refused, Err(Distrust::Replayed { .. })));
}

#[test]
fn a_node_whose_clock_was_set_back_is_believed_once_what_it_said_has_expired() {
    let verifier = verifier();
    let late = sign(key("k1", 7), &place(), &claim(9), b"x");
    assert!(verifier.verify(&place(), "n1", &late, now()).is_ok());
    let early = sign(key("k1", 7), &place(), &claim(2), b"x");
    assert!(verifier.verify(&place(), "n1", &early, now()).is_err());

    let then = claim(9).expires + LEEWAY + Duration::from_millis(1);
    let fresh = Claim {
        expires: then + Duration::from_secs(10),
        ..claim(2)
    };
    let fresh = sign(key("k1", 7), &place(), &fresh, b"x");
    assert!(verifier.verify(&place(), "n1", &fresh, then).is_ok());
}

#[test]
fn nobody_takes_a_place_for_longer_than_values_are_good_for() {
    let longest = Duration::from_secs(10);
    let verifier = verifier().for_at_most(longest).rotated([key("k1", 7)]);
    let until = |expires| Claim {
        expires,
        ..claim(u64::MAX)
    };
    let last = now() + longest + LEEWAY;
    let far = sign(
        key("k1", 7),
        &place(),
        &until(last + Duration::from_millis(1)),
        b"x",
    );
    let refused = verifier.verify(&place(), "n1", &far, now());
    assert_eq!(refused, Err(Distrust::TooLong));
    let near = sign(key("k1", 7), &place(), &until(last), b"x");
    assert!(verifier.verify(&place(), "n1", &near, now()).is_ok());
}

#[test]
fn while_keys_are_rotated_one_in_common_is_enough() {
    let both = Signer::new([key("k1", 7), key("k2", 8)]);
    let signed = both.sign(&place(), &claim(1), b"x", now());
    let signed = signed.expect("two keys are live");
    for only in [key("k1", 7), key("k2", 8)] {
        let verifier = Verifier::new([only]);
        assert!(verifier.verify(&place(), "n1", &signed, now()).is_ok());
    }
    assert_eq!(
        Signer::default().sign(&place(), &claim(1), b"x", now()),
        None
    );
}

#[test]
fn a_key_that_has_expired_neither_signs_nor_is_believed() {
    let until = |end| ClusterKey::new("k1", &SECRET, Some(end)).expect("long enough");
    let ended = Signer::new([until(now())]);
    assert_eq!(ended.sign(&place(), &claim(1), b"x", now()), None);
    let later = now() + Duration::from_secs(1);
    let signed = sign(until(later), &place(), &claim(1), b"x");
    let believed = |key, now| Verifier::new([key]).verify(&place(), "n1", &signed, now);
    assert!(believed(until(later), now()).is_ok());
    assert!(believed(until(later), later).is_err());
}

#[test]
fn as_many_codes_as_there_may_be_fit() {
    let keys = || ["a", "b", "c", "d", "e"].map(|kid| key(&kid.repeat(64), 7));
    let signed = Signer::new(keys()).sign(&place(), &claim(u64::MAX), b"x", now());
    let signed = signed.expect("they are live");
    let verifier = Verifier::new(keys());
    assert!(verifier.verify(&place(), "n1", &signed, now()).is_ok());
}

#[test]
fn a_refused_value_is_no_reason_to_refuse_the_right_one() {
    let verifier = verifier();
    let forged = sign(key("k1", 9), &place(), &claim(u64::MAX), b"x");
    assert!(verifier.verify(&place(), "n1", &forged, now()).is_err());
    let foreign = Claim {
        owner: "n2".to_owned(),
        ..claim(u64::MAX)
    };
    let foreign = sign(key("k1", 7), &place(), &foreign, b"x");
    assert!(verifier.verify(&place(), "n1", &foreign, now()).is_err());

    let right = sign(key("k1", 7), &place(), &claim(1), b"x");
    assert!(verifier.verify(&place(), "n1", &right, now()).is_ok());
}

#[test]
fn no_secret_is_shown() {
    let shown = format!("{:?} {:?}", key("k1", 7), verifier());
    assert!(
        shown.contains("k1") && !shown.contains("7, 7") && !shown.contains("0707"),
        "{shown}"
    );
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut seen = HashMap::new();
    for n in 0..=MOST_PLACES {
        let expires = now() + Duration::from_secs(u64::try_from(n).expect("small"));
        let place = format!("p/{n}").parse().expect("a key");
        seen.insert(
            place,
            Seen {
                version: 1,
                expires,
                payload: digest::digest(&digest::SHA256, b""),
            },
        );
        forget_one_too_many(&mut seen);
    }
    assert_eq!(seen.len(), MOST_PLACES);
    assert!(!seen.contains_key(&"p/0".parse().expect("a key")));
}

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let verified = verifier().verify(&place(), "n1", &bytes.into(), now());
        prop_assert!(verified.is_err());
    }

    /// The kid may differ in a byte that makes it unknown; nothing else may change unnoticed.
    #[test]
    fn no_altered_byte_is_believed(at in 0_usize..1000, flip in 1_u8..=255, payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let signed = sign(key("k1", 7), &place(), &claim(5), &payload);
        let mut altered = signed.to_vec();
        let at = at % altered.len();
        altered[at] ^= flip;
        let verified = verifier().verify(&place(), "n1", &altered.into(), now());
        prop_assert!(verified.is_err(), "byte {}", at);
    }
}
