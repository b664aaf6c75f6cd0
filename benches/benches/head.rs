//! The head of a stream, written and read.
#![expect(clippy::expect_used, reason = "a benchmark that fails panics")]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use sallyport_wire::frame::{MAX_HEAD, decode, encode};
use sallyport_wire::message::{Client, Head, Kind};

/// As a gateway writes it for a browser behind HTTPS.
fn head() -> Head {
    Head {
        kind: Kind::Http.into(),
        target: "jupyter-4711".to_owned(),
        stream: 123_456,
        client: Some(Client {
            address: "192.0.2.17:50123".to_owned(),
            ..Client::default()
        }),
        request_id: "01J9ZQ5T8E8W3V6C9K2M4N7P0R".to_owned(),
        credential: "x".repeat(200),
        ..Head::default()
    }
}

fn head_codec(c: &mut Criterion) {
    let head = head();
    c.bench_function("head, encode", |bencher| {
        bencher.iter(|| encode(black_box(&head), MAX_HEAD));
    });
    let encoded = BytesMut::from(&*encode(&head, MAX_HEAD).expect("it fits"));
    c.bench_function("head, decode", |bencher| {
        bencher.iter_batched_ref(
            || encoded.clone(),
            |bytes| decode::<Head>(bytes, MAX_HEAD),
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, head_codec);
criterion_main!(benches);
