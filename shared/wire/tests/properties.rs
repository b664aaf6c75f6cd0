//! What holds for every message: it reads back as it was sent, and no bytes of a stranger do more than fail.
#![expect(
    clippy::expect_used,
    reason = "helpers of tests, outside `#[test]` functions"
)]

use std::fmt::Debug;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use sallyport_wire::frame::{FrameError, decode, encode};
use sallyport_wire::message::{
    Ack, Advertise, Advertised, Answer, Client, Control, ControlKind, Data, Drain, Head, Hello,
    Identity, Offer, Ping, Refused, RefusedOffer, Reply, ReplyKind, Resume, Rotate, Store, Taken,
    Welcome,
};
use sallyport_wire::{
    Glob, MAX_CONTROL, MAX_HEAD, MAX_HELLO, NodeName, PoolName, PortRange, Scope, SessionId,
};

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn blob() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..80).prop_map(Bytes::from)
}

prop_compose! {
    fn hello()(
        (oldest, newest, generation, successor_of) in any::<(u32, u32, u64, u64)>(),
        (node, token, site, software) in (text(), text(), text(), text()),
        (node_key, proof) in (blob(), blob()),
        (features, required, dry_run) in (vec(text(), 0..5), vec(text(), 0..5), any::<bool>()),
    ) -> Hello {
        Hello { oldest, newest, node, generation, successor_of, token, node_key, proof, features, required, site, software, dry_run }
    }
}

prop_compose! {
    fn welcome()(
        (version, tunnel, max_streams, tunnels) in any::<(u32, u64, u32, u32)>(),
        (gateway, software, features) in (text(), text(), vec(text(), 0..5)),
        identity in prop::option::of(identity()),
    ) -> Welcome {
        Welcome { version, gateway, tunnel, features, max_streams, tunnels, software, identity }
    }
}

prop_compose! {
    fn identity()(
        (node, token) in (text(), text()),
        (node_key, proof) in (blob(), blob()),
    ) -> Identity {
        Identity { node, token, node_key, proof }
    }
}

fn refused() -> impl Strategy<Value = Refused> {
    any::<(u32, u32)>().prop_map(|(code, retry_after_ms)| Refused {
        code,
        retry_after_ms,
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let kind = prop_oneof![
        welcome().prop_map(ReplyKind::Welcome),
        refused().prop_map(ReplyKind::Refused),
    ];
    prop::option::of(kind).prop_map(|kind| Reply { kind })
}

prop_compose! {
    fn offer()(
        (id, pool, node) in (text(), text(), text()),
        (protocol, weight, answer_within, sticky) in any::<(i32, u32, u32, i32)>(),
        (keep_prefix, down, trusted, anonymous, blind) in any::<(bool, bool, bool, bool, bool)>(),
    ) -> Offer {
        Offer { id, protocol, pool, keep_prefix, down, weight, trusted, anonymous, blind, answer_within, node, sticky }
    }
}

prop_compose! {
    fn advertise()(
        (revision, draining, generation) in any::<(u64, bool, u64)>(),
        (home, via) in (vec(offer(), 0..5), vec(offer(), 0..5)),
        direct_url in text(),
    ) -> Advertise {
        Advertise { revision, home, via, draining, direct_url, generation }
    }
}

fn advertised() -> impl Strategy<Value = Advertised> {
    let refused = (text(), any::<u32>()).prop_map(|(id, code)| RefusedOffer { id, code });
    (any::<u64>(), vec(refused, 0..5))
        .prop_map(|(revision, refused)| Advertised { revision, refused })
}

fn control() -> impl Strategy<Value = Control> {
    let kind = prop_oneof![
        advertise().prop_map(ControlKind::Advertise),
        advertised().prop_map(ControlKind::Advertised),
        any::<u64>().prop_map(|number| ControlKind::Ping(Ping { number })),
        any::<u64>().prop_map(|number| ControlKind::Pong(Ping { number })),
        (text(), blob()).prop_map(|(token, proof)| ControlKind::Rotate(Rotate { token, proof })),
        answer().prop_map(ControlKind::Rotated),
        (any::<u64>(), blob())
            .prop_map(|(stream, token)| ControlKind::Data(Data { stream, token })),
        vec(any::<(u64, u64)>(), 0..5).prop_map(|taken| {
            let taken = taken.into_iter();
            let taken = taken.map(|(stream, bytes)| Taken { stream, bytes });
            let taken = taken.collect();
            ControlKind::Ack(Ack { taken })
        }),
        (text(), any::<(u64, bool)>()).prop_map(|(id, (made_ms, shared))| {
            ControlKind::Store(Store {
                id,
                made_ms,
                shared,
            })
        }),
        any::<(u32, u32)>().prop_map(|(redial_in_ms, finish_by_ms)| {
            ControlKind::Drain(Drain {
                redial_in_ms,
                finish_by_ms,
            })
        }),
    ];
    prop::option::of(kind).prop_map(|kind| Control { kind })
}

prop_compose! {
    fn client()((address, host, local) in (text(), text(), text()), tls in any::<bool>()) -> Client {
        Client { address, host, tls, local }
    }
}

prop_compose! {
    fn head()(
        (kind, stream, port) in any::<(i32, u64, u32)>(),
        (target, request_id, credential) in (text(), text(), text()),
        client in prop::option::of(client()),
        resume in prop::option::of(any::<(u64, u64)>()),
    ) -> Head {
        let resume = resume.map(|(received, sent)| Resume { received, sent });
        Head { kind, target, stream, client, request_id, credential, resume, port }
    }
}

fn answer() -> impl Strategy<Value = Answer> {
    prop::option::of(refused()).prop_map(|refused| Answer { refused })
}

/// Sends a message in pieces of `piece` bytes, with the start of another one behind it.
fn there_and_back<M>(sent: &M, max: usize, piece: usize)
where
    M: Message + Default + PartialEq + Debug,
{
    let bytes = encode(sent, max).expect("it fits");
    assert_eq!(bytes.len(), sent.encoded_len() + 2);
    let mut buffer = BytesMut::new();
    let mut got = None;
    for part in bytes.chunks(piece.max(1)) {
        assert_eq!(got, None, "complete only with its last byte");
        buffer.extend_from_slice(part);
        got = decode::<M>(&mut buffer, max).expect("well-formed");
    }
    assert_eq!(got.as_ref(), Some(sent));
    buffer.put_u8(0);
    assert_eq!(
        decode::<M>(&mut buffer, max),
        Ok(None),
        "half a prefix is not a message"
    );
}

/// Reads `bytes` as a message until they end or are refused: it must come to an end, without a panic.
fn read_all<M: Message + Default>(bytes: &[u8], max: usize) {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(_)) = decode::<M>(&mut buffer, max) {}
}

fn read_as_everything(bytes: &[u8]) {
    read_all::<Hello>(bytes, MAX_HELLO);
    read_all::<Reply>(bytes, MAX_HELLO);
    read_all::<Control>(bytes, MAX_CONTROL);
    read_all::<Head>(bytes, MAX_HEAD);
    read_all::<Answer>(bytes, MAX_HEAD);
}

proptest! {
    #[test]
    fn hellos_read_back(sent in hello(), piece in 1_usize..300) {
        there_and_back(&sent, MAX_HELLO, piece);
    }

    #[test]
    fn replies_read_back(sent in reply(), piece in 1_usize..300) {
        there_and_back(&sent, MAX_HELLO, piece);
    }

    #[test]
    fn controls_read_back(sent in control(), piece in 1_usize..300) {
        there_and_back(&sent, MAX_CONTROL, piece);
    }

    #[test]
    fn heads_and_answers_read_back(head in head(), answer in answer(), piece in 1_usize..300) {
        there_and_back(&head, MAX_HEAD, piece);
        there_and_back(&answer, MAX_HEAD, piece);
    }

    #[test]
    fn a_stream_of_messages_keeps_its_order(sent in vec(control(), 0..8)) {
        let bytes: Vec<u8> = sent
            .iter()
            .flat_map(|message| encode(message, MAX_CONTROL).expect("it fits"))
            .collect();
        let mut buffer = BytesMut::from(bytes.as_slice());
        let mut got = Vec::new();
        while let Some(message) = decode::<Control>(&mut buffer, MAX_CONTROL).expect("well-formed") {
            got.push(message);
        }
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn a_flipped_bit_does_no_more_than_fail(
        sent in control(), head in head(), at in any::<prop::sample::Index>(), bit in 0_u32..8,
    ) {
        for bytes in [encode(&sent, MAX_CONTROL), encode(&head, MAX_HEAD)] {
            let mut bytes = bytes.expect("it fits").to_vec();
            let at = at.index(bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
            read_as_everything(&bytes);
        }
    }

    #[test]
    fn a_cut_message_is_waited_for(sent in hello(), at in any::<prop::sample::Index>()) {
        let bytes = encode(&sent, MAX_HELLO).expect("it fits");
        let cut = bytes.slice(..at.index(bytes.len()));
        let mut buffer = BytesMut::from(cut.as_ref());
        prop_assert_eq!(decode::<Hello>(&mut buffer, MAX_HELLO), Ok(None));
        prop_assert_eq!(buffer.len(), cut.len(), "nothing is taken before all is there");
    }

    #[test]
    fn random_bytes_do_no_more_than_fail(bytes in vec(any::<u8>(), 0..2_000)) {
        read_as_everything(&bytes);
        if let Ok(len) = u16::try_from(bytes.len()) {
            read_as_everything(&[&len.to_be_bytes(), bytes.as_slice()].concat());
        }
    }

    #[test]
    fn a_field_of_a_newer_version_is_skipped(sent in hello(), tag in 100_u32..10_000, value in blob()) {
        let mut body = sent.encode_to_vec();
        prost::encoding::bytes::encode(tag, &value, &mut body);
        prop_assert_eq!(Hello::decode(body.as_slice()), Ok(sent));
    }

    #[test]
    fn a_kind_of_a_newer_version_is_none(tag in 9_u32..10_000, value in blob()) {
        let mut body = Vec::new();
        prost::encoding::bytes::encode(tag, &value, &mut body);
        prop_assert_eq!(Control::decode(body.as_slice()), Ok(Control { kind: None }));
    }

    #[test]
    fn the_limit_is_exact_on_both_sides(len in 1_usize..200, over in 1_usize..50) {
        let sent = Head { credential: "x".repeat(len), ..Head::default() };
        let fits = sent.encoded_len();
        let bytes = encode(&sent, fits).expect("just fits");
        let small = fits.saturating_sub(over);
        let too_long = FrameError::TooLong { len: fits, max: small };

        prop_assert_eq!(encode(&sent, small), Err(too_long.clone()));
        prop_assert_eq!(decode::<Head>(&mut BytesMut::from(bytes.as_ref()), small), Err(too_long));
        prop_assert_eq!(decode::<Head>(&mut BytesMut::from(bytes.as_ref()), fits), Ok(Some(sent)));
    }

    #[test]
    fn names_keep_to_their_alphabet(text in "\\PC{0,80}", plain in "[a-z0-9.-]{1,70}") {
        for text in [text, plain] {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
            if let Ok(name) = text.parse::<NodeName>() {
                prop_assert!(name.as_str().chars().all(allowed) && name.as_str() == text);
            }
            let session = text.parse::<SessionId>();
            prop_assert_eq!(session.is_ok(), text.parse::<PoolName>().is_ok());
            prop_assert!(session.is_err() || (text.len() <= 63 && !text.contains('.')));
        }
    }

    #[test]
    fn a_glob_matches_what_it_was_made_from(parts in vec(("[a-c]{0,3}", "[a-c]{0,3}"), 1..5), last in "[a-c]{0,3}") {
        let fixed: Vec<_> = parts.iter().map(|(fixed, _)| fixed.as_str()).collect();
        let name: String = parts.iter().map(|(fixed, free)| format!("{fixed}{free}")).collect();
        let (pattern, name) = (format!("{}*{last}", fixed.join("*")), format!("{name}{last}"));
        let other = Glob::new(&format!("x{pattern}"));
        let either = Glob::new(&format!("x,{pattern}"));
        prop_assert!(Glob::new(&pattern).matches(&name) && either.matches(&name));
        prop_assert!(!other.matches(&name));
    }

    #[test]
    fn port_ranges_read_back(a in 1_u16.., b in 1_u16..) {
        let (first, last) = (a.min(b), a.max(b));
        let range: PortRange = format!("{first}-{last}").parse().expect("a range");
        prop_assert_eq!(range.to_string().parse::<PortRange>(), Ok(range));
        prop_assert!(range.contains(first) && range.contains(last));
        let scope = Scope { ports: vec![range], ..Scope::default() };
        prop_assert!(scope.allows_port(first) && !scope.allows_port(first.wrapping_sub(1)));
    }
}

#[test]
fn the_protocol_paper_lists_every_code() {
    let paper = include_str!("../../PROTOCOL.md");
    for code in sallyport_wire::Code::ALL {
        let row = format!(
            "| {} | `{}` | {} |",
            code.number(),
            code.word(),
            code.status()
        );
        assert!(paper.contains(&row), "{row}");
    }
}
