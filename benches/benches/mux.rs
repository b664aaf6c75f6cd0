//! Frames through the mux: two ends over a pipe in memory, so no cipher and no socket.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark that fails panics, and its tasks end with its runtime"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sallyport_mux::{Arrivals, Mux, Role, Settings, Stream, connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};

const KIB: usize = 1024;

/// Bytes of one measurement.
const BULK: usize = 1024 * KIB;

fn runtime() -> Runtime {
    // One thread: what is measured is work, not how it is spread.
    let mut builder = Builder::new_current_thread();
    builder.build().expect("a runtime")
}

/// One end, whose driver runs in a task.
fn end(io: DuplexStream, role: Role) -> (Mux, Arrivals) {
    let io = BufReader::with_capacity(64 * KIB, io);
    let (mux, arrivals, mut driver) = connection(io, role, Settings::default());
    tokio::spawn(async move { driver.run().await });
    (mux, arrivals)
}

/// A connection and `count` streams that both ends hold.
async fn streams(count: usize) -> Vec<(Stream, Stream)> {
    let (here, there) = duplex(256 * KIB);
    let ((mux, _arrivals), (_mux, mut arrivals)) =
        (end(here, Role::Client), end(there, Role::Server));
    let mut both = Vec::with_capacity(count);
    for _ in 0..count {
        let mut opened = mux.open().expect("live");
        opened.write_all(b"!").await.expect("live");
        let mut taken = arrivals.next().await.expect("live");
        taken.read_u8().await.expect("live");
        both.push((opened, taken));
    }
    both
}

/// Sends so many bytes on each stream in writes of `write`, and reads them.
async fn carry(streams: &mut [(Stream, Stream)], each: usize, write: usize) {
    let moving = streams.iter_mut().map(|(from, to)| async move {
        let (bytes, mut got) = (vec![0x5a; write], vec![0; 64 * KIB]);
        let sending = async {
            for _ in 0..each / write {
                from.write_all(&bytes).await.expect("live");
            }
            from.flush().await.expect("live");
        };
        let receiving = async {
            let mut left = each / write * write;
            while left > 0 {
                left -= to.read(black_box(&mut got)).await.expect("live");
            }
        };
        tokio::join!(sending, receiving);
    });
    futures::future::join_all(moving).await;
}

/// Bytes a second, by the size of a write and the number of streams.
fn bulk(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("mux, bytes");
    for (count, write) in [(1, 16 * KIB), (1, 64 * KIB), (8, 64 * KIB), (100, 16 * KIB)] {
        let mut open = runtime.block_on(streams(count));
        group.throughput(Throughput::Bytes(
            (BULK / count / write * write * count) as u64,
        ));
        let id = BenchmarkId::new(
            format!("{count} streams"),
            format!("writes of {} KiB", write / KIB),
        );
        group.bench_function(id, |bencher| {
            bencher.iter(|| runtime.block_on(carry(&mut open, BULK / count, write)));
        });
    }
}

/// Small frames a second: a message there and back on each of several streams.
fn frames(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("mux, frames of 64 bytes");
    for count in [1, 100] {
        let mut open = runtime.block_on(streams(count));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(
            BenchmarkId::from_parameter(format!("{count} streams")),
            |bencher| {
                bencher.iter(|| runtime.block_on(carry(&mut open, 64, 64)));
            },
        );
    }
}

/// Streams a second: open, a byte, and both ends in order.
fn opens(c: &mut Criterion) {
    let runtime = runtime();
    let (mux, mut arrivals) = runtime.block_on(async {
        let (here, there) = duplex(256 * KIB);
        let ((mux, kept), (other, arrivals)) = (end(here, Role::Client), end(there, Role::Server));
        tokio::spawn(async move {
            let _both_live = (kept, other);
            std::future::pending::<()>().await;
        });
        (mux, arrivals)
    });
    c.bench_function("mux, a stream opened and ended", |bencher| {
        bencher.iter(|| runtime.block_on(one(&mux, &mut arrivals)));
    });
}

async fn one(mux: &Mux, arrivals: &mut Arrivals) {
    let mut opened = mux.open().expect("live");
    opened.write_all(b"!").await.expect("live");
    opened.shutdown().await.expect("live");
    let mut taken = arrivals.next().await.expect("live");
    let mut got = Vec::new();
    taken.read_to_end(&mut got).await.expect("an orderly end");
    taken.shutdown().await.expect("live");
    assert_eq!(opened.read(&mut [0]).await.expect("an orderly end"), 0);
}

criterion_group!(benches, bulk, frames, opens);
criterion_main!(benches);
