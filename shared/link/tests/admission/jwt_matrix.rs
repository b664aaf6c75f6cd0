//! Every way in which a token can be wrong, against the gateway's own check: one answer to all of them, and
//! for each its own words in the log.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use sallyport_link::Key;
use sallyport_link::key::Material;
use sallyport_wire::{Code, Scope};

use crate::pair::Pair;

/// What is replaced, by what, and a word of the cause in the log.
type Change = (&'static str, &'static str, &'static str);

/// The one right header; `KID` stands for the key's id.
const HEADER: &str = r#"{"alg":"HS256","kid":"KID","typ":"JWT"}"#;

/// Changes to [`HEADER`]; claims are good and the signature is right.
const BAD_HEADERS: &[Change] = &[
    ("HS256", "none", "algorithm"),
    ("HS256", "None", "algorithm"),
    ("HS256", "NONE", "algorithm"),
    ("HS256", "nOnE", "algorithm"),
    ("HS256", "", "algorithm"),
    ("HS256", "HS384", "algorithm"),
    ("HS256", "HS512", "algorithm"),
    ("HS256", "RS256", "algorithm"),
    ("HS256", "PS256", "algorithm"),
    ("HS256", "ES256", "algorithm"),
    ("HS256", "EdDSA", "algorithm"),
    ("HS256", "hs256", "algorithm"),
    ("HS256", "HS256 ", "algorithm"),
    (r#""HS256""#, r#"["HS256"]"#, "header is wrong"),
    (r#""HS256""#, "null", "header is wrong"),
    (r#""HS256""#, "1", "header is wrong"),
    (r#""alg":"HS256","#, "", "missing field `alg`"),
    ("KID", "", "no such key"),
    ("KID", "unknown", "no such key"),
    ("KID", "../../etc/passwd", "no such key"),
    ("KID", "/dev/null", "no such key"),
    ("KID", "' OR 1=1 --", "no such key"),
    ("KID", r"KID\u0000", "no such key"),
    ("KID", "*", "no such key"),
    (r#""KID""#, "null", "header is wrong"),
    (r#""KID""#, r#"["KID"]"#, "header is wrong"),
    (r#""kid":"KID","#, "", "missing field `kid`"),
    (r#","typ":"JWT""#, "", "missing field `typ`"),
    ("JWT", "jwt", "`typ`"),
    ("JWT", "at+jwt", "`typ`"),
    ("JWT", "J\u{200b}WT", "`typ`"),
    ("}", r#","crit":["exp"],"exp":1}"#, "unknown field `crit`"),
    ("}", r#","crit":[]}"#, "unknown field `crit`"),
    ("}", r#","b64":false}"#, "unknown field `b64`"),
    (
        "}",
        r#","jwk":{"kty":"oct","k":"AA"}}"#,
        "unknown field `jwk`",
    ),
    (
        "}",
        r#","jku":"https://evil.example/"}"#,
        "unknown field `jku`",
    ),
    (
        "}",
        r#","x5u":"https://evil.example/"}"#,
        "unknown field `x5u`",
    ),
    ("}", r#","cty":"JWT"}"#, "unknown field `cty`"),
    ("}", r#","zip":"DEF"}"#, "unknown field `zip`"),
    ("}", r#","enc":"A128GCM"}"#, "unknown field `enc`"),
    ("}", r#","alg":"none"}"#, "duplicate field `alg`"),
    ("}", r#","\u0061lg":"none"}"#, "duplicate field `alg`"),
    ("}", r#","kid":"other"}"#, "duplicate field `kid`"),
    (HEADER, r#"["HS256","KID","JWT"]"#, "not a JSON object"),
    (HEADER, "{}", "missing field"),
    (HEADER, "null", "not a JSON object"),
    (HEADER, "\0", "not a JSON object"),
    ("{", "[{", "not a JSON object"),
    ("{", "\u{feff}{", "not a JSON object"),
    ("}", "} ", "not a JSON object"),
    ("}", "}{}", "trailing characters"),
];

/// Good claims; `JTI` and `CB` stand for fresh ones.
const CLAIMS: &str = r#"{"iss":"node-1","aud":"https://gw.example.org","iat":1800000000,"exp":1800000060,"jti":"JTI","cb":"CB"}"#;

/// Changes to [`CLAIMS`]; header and signature are right.
const BAD_CLAIMS: &[Change] = &[
    ("https://gw", "https://other", "not for this gateway"),
    ("example.org", "example.org/", "not for this gateway"),
    ("https://gw.example.org", "", "not for this gateway"),
    ("node-1", "node-2", "node `node-2`"),
    ("node-1", "NODE-1", "node `NODE-1`"),
    ("JTI", "AAAA", "`jti`"),
    ("JTI", "", "`jti`"),
    ("CB", "", "`cb`"),
    ("CB", "AAAA", "`cb`"),
    (
        "CB",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "another connection",
    ),
    ("1800000060", "1800000000", "lives 0 s"),
    ("1800000060", "1800000061", "lives 61 s"),
    ("1800000060", "1799999999", "lives -1 s"),
    ("1800000000", "1", "lives"),
    ("}", r#","nbf":1}"#, "unknown field `nbf`"),
    ("}", r#","admin":true}"#, "unknown field `admin`"),
    ("{", "[{", "not a JSON object"),
    ("}", "}x", "not a JSON object"),
    (CLAIMS, "{}", "missing field"),
    (
        CLAIMS,
        r#"["node-1","https://gw.example.org",1800000000,1800000060,"JTI","CB"]"#,
        "not a JSON object",
    ),
];

/// Values that are no number of seconds, for `iat` and `exp`.
const BAD_TIMES: &[&str] = &[
    r#""1800000000""#,
    "1800000000.0",
    "1800000000.5",
    "1e300",
    "1.8e9",
    "-1",
    "null",
    "true",
    "[1800000000]",
    "{}",
    "18446744073709551616",
    "18446744073709551615",
    r#""soon""#,
    "01800000000",
    "NaN",
];

/// Values that are no text, for the other claims.
const BAD_TEXTS: &[&str] = &[
    "null",
    "1",
    "[]",
    r#"["https://gw.example.org"]"#,
    "{}",
    "true",
    r#""\ud800""#,
];

/// Good parts in a wrong wrapping: `H`, `C` and `S` stand for header, claims and signature.
const BAD_SHAPES: &[(&str, &str)] = &[
    ("", "one part"),
    ("x", "one part"),
    ("{S}", "one part"),
    ("{H}.{C}", "two parts"),
    ("..", "empty part"),
    ("{H}.{C}.", "empty part"),
    ("{H}..{S}", "empty part"),
    (".{C}.{S}", "empty part"),
    ("{H}.{C}.{S}.", "more than three"),
    ("{H}.{C}.{S}.{S}", "more than three"),
    ("{H}.{C}.{C}.{C}.{S}", "more than three"),
    ("{H}.{C}.{S}=", "not base64url"),
    ("{H}=.{C}.{S}", "not base64url"),
    ("{H}.{C}=.{S}", "not base64url"),
    ("{H}.{C}.{S}\n", "not base64url"),
    (" {H}.{C}.{S}", "not base64url"),
    ("{H}.{C}. {S}", "not base64url"),
    ("{H} .{C}.{S}", "not base64url"),
    ("{H}.{C}.{S}\0", "not base64url"),
    ("{H}.{C}.{S}\u{e9}", "not base64url"),
    ("{H}.{C}.{S}A", "signature"),
    ("{H}.{C}.+/+/", "not base64url"),
    ("Bearer {H}.{C}.{S}", "not base64url"),
    ("{H}.{C}.{S}AA", "not base64url"),
    ("{H}.{C}.AAAA", "signature"),
    ("{H}.{C}.{H}", "signature"),
    ("{C}.{H}.{S}", "header is wrong"),
    (r#"{"payload":"{C}","signature":"{S}"}"#, "one part"),
];

fn base64url(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A right signature over whatever header and claims, after putting in the key's id, a new `jti` and the
/// connection's `cb`.
fn sign(pair: &Pair, header: &str, claims: &str) -> String {
    let minted = pair.mint();
    let fresh = minted
        .split('.')
        .nth(1)
        .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let fresh: serde_json::Value = serde_json::from_slice(&fresh.expect("claims")).expect("JSON");
    let fresh = |claim: &str| fresh.get(claim).expect("the claim").to_string();
    let header = header.replace("KID", &pair.key.kid);
    let claims = claims
        .replace("\"JTI\"", &fresh("jti"))
        .replace("\"CB\"", &fresh("cb"));
    let signed = format!("{}.{}", base64url(&header), base64url(&claims));
    let signature = pair.key.sign(signed.as_bytes()).expect("a key that signs");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Checks that a token gets the one answer, and that the log says why in few words.
fn is_refused(pair: &Pair, token: &str, cause: &str) {
    let refused = pair.refused(token);
    assert_eq!(refused.code, Code::Unauthorised, "{token:.400}: {refused}");
    assert!(
        refused.cause.contains(cause),
        "{token:.400}: {refused}, wanted: {cause}"
    );
    assert!(
        refused.cause.len() < 600,
        "{token:.400}: {} bytes of log",
        refused.cause.len()
    );
}

#[test]
fn a_header_is_taken_only_as_it_should_be() {
    let pair = Pair::new();
    assert!(
        pair.check(&sign(&pair, HEADER, CLAIMS)).is_ok(),
        "the cases are changes to this"
    );

    for (what, by, cause) in BAD_HEADERS {
        assert!(HEADER.contains(what), "{what}");
        is_refused(
            &pair,
            &sign(&pair, &HEADER.replacen(what, by, 1), CLAIMS),
            cause,
        );
    }
    let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let with = |alg: &str| sign(&pair, &HEADER.replace(r#""HS256""#, alg), CLAIMS);
    is_refused(&pair, &with(&nested(2_000)), "header is wrong");
    is_refused(&pair, &with(&nested(10_000)), "bytes, at most");
}

#[test]
fn every_claim_is_there_once_and_of_its_type() {
    let pair = Pair::new();
    let refuse = |claims: &str, cause: &str| {
        assert_ne!(claims, CLAIMS, "a case that changes nothing");
        is_refused(&pair, &sign(&pair, HEADER, claims), cause);
    };
    for (what, by, cause) in BAD_CLAIMS {
        assert!(CLAIMS.contains(what), "{what}");
        refuse(&CLAIMS.replacen(what, by, 1), cause);
    }
    let json: serde_json::Value = serde_json::from_str(CLAIMS).expect("JSON");
    for (claim, value) in json.as_object().expect("an object") {
        let there = format!("\"{claim}\":{value}");
        let bad = if value.is_number() {
            BAD_TIMES
        } else {
            BAD_TEXTS
        };
        for other in bad {
            refuse(
                &CLAIMS.replace(&there, &format!("\"{claim}\":{other}")),
                "claims are wrong",
            );
        }
        refuse(
            &CLAIMS.replace(&there, &there.replacen(claim, "x", 1)),
            "unknown field `x`",
        );
        refuse(
            &CLAIMS.replace(&there, &format!("{there},{there}")),
            "duplicate field",
        );
        let without = CLAIMS
            .replace(&format!("{there},"), "")
            .replace(&format!(",{there}"), "");
        refuse(&without, "missing field");
    }
}

#[test]
fn a_token_has_one_shape() {
    let pair = Pair::new();
    for (shape, cause) in BAD_SHAPES {
        let good = pair.mint();
        let mut parts = good.split('.');
        let mut next = || parts.next().expect("three parts");
        let token = shape
            .replace("{H}", next())
            .replace("{C}", next())
            .replace("{S}", next());
        is_refused(&pair, &token, cause);
    }
    is_refused(&pair, &"A".repeat(1 << 20), "bytes, at most");
}

#[test]
fn only_the_keys_own_signature_counts() {
    let pair = Pair::new();
    let good = pair.mint();
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let other = Key::generate(Scope::default(), None).expect("randomness");
    let by_other = other.sign(signed.as_bytes()).expect("a key that signs");
    let node_key = hmac::Key::new(hmac::HMAC_SHA256, pair.identity.public());
    let by_node_key = hmac::sign(&node_key, signed.as_bytes()).as_ref().to_vec();
    let flipped: Vec<u8> = signature.iter().map(|byte| byte ^ 1).collect();

    for wrong in [
        &signature[..31],
        &by_other,
        &by_node_key,
        &flipped,
        &[0; 32],
        &[0; 64],
    ] {
        is_refused(
            &pair,
            &format!("{signed}.{}", URL_SAFE_NO_PAD.encode(wrong)),
            "signature",
        );
    }
    assert!(pair.check(&good).is_ok());
}

#[test]
fn a_public_key_as_hmac_secret_opens_nothing() {
    let pair = Pair::with(Key::generate_pair(Scope::default(), None).expect("randomness"));
    let half = pair.key.public_half().expect("a pair has one");
    let Material::Public(public) = half.material else {
        panic!("the gateway's half is public")
    };
    let confused = sign(&pair, HEADER, CLAIMS);
    let (signed, _) = confused.rsplit_once('.').expect("three parts");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &public);
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));

    is_refused(&pair, &format!("{signed}.{tag}"), "its key is for `EdDSA`");
    assert!(
        pair.check(&sign(&pair, &HEADER.replace("HS256", "EdDSA"), CLAIMS))
            .is_ok()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_token_never_passes(at in any::<prop::sample::Index>(), to in any::<char>()) {
        let pair = Pair::new();
        let good = pair.mint();
        let mut chars: Vec<char> = good.chars().collect();
        let at = at.index(chars.len());
        prop_assume!(chars[at] != to);
        chars[at] = to;
        let changed: String = chars.into_iter().collect();

        prop_assert!(pair.check(&changed).is_err());
        prop_assert!(pair.check(&good).is_ok());
    }

    #[test]
    fn random_text_never_passes(text in ".{0,300}", parts in "[A-Za-z0-9_-]{0,90}\\.[A-Za-z0-9_-]{0,90}\\.[A-Za-z0-9_-]{0,60}") {
        let pair = Pair::new();
        prop_assert!(pair.check(&text).is_err());
        prop_assert!(pair.check(&parts).is_err());
    }
}
