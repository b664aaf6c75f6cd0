//! The copy loop between two pairs of sockets on loopback.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark that fails panics, and its tasks end with its runtime"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sallyport_splice::{Limits, Meter, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

const KIB: usize = 1024;

/// Bytes of one measurement.
const BULK: usize = 4 * 1024 * KIB;

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// Two ends of a TCP connection.
async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, (far, _)) = (near.expect("it listens"), far.expect("it came"));
    for end in [&near, &far] {
        end.set_nodelay(true).expect("a socket option");
    }
    (near, far)
}

/// The outer ends of a way through the loop, which runs in a task.
async fn joined() -> (TcpStream, TcpStream) {
    let ((user, mut client), (mut session, program)) = (tcp().await, tcp().await);
    tokio::spawn(async move {
        let (limits, meter) = (Limits::default(), Meter::new());
        run(&mut client, &mut session, &limits, &meter).await
    });
    (user, program)
}

async fn carry(from: &mut TcpStream, to: &mut TcpStream, (all, write): (usize, usize)) {
    let (bytes, mut got) = (vec![0x5a; write], vec![0; 256 * KIB]);
    let sending = async {
        for _ in 0..all / write {
            from.write_all(&bytes).await.expect("open");
        }
    };
    let receiving = async {
        let mut left = all / write * write;
        while left > 0 {
            left -= to.read(black_box(&mut got)).await.expect("open");
        }
    };
    tokio::join!(sending, receiving);
}

fn bulk(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("splice, bytes");
    for write in [1_448, 16 * KIB, 256 * KIB] {
        let (mut user, mut program) = runtime.block_on(joined());
        group.throughput(Throughput::Bytes((BULK / write * write) as u64));
        group.bench_function(
            BenchmarkId::from_parameter(format!("writes of {write}")),
            |bencher| {
                bencher.iter(|| runtime.block_on(carry(&mut user, &mut program, (BULK, write))));
            },
        );
    }
}

fn ping_pong(c: &mut Criterion) {
    let runtime = runtime();
    let (mut user, mut program) = runtime.block_on(joined());
    c.bench_function("splice, 64 bytes there and back", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                carry(&mut user, &mut program, (64, 64)).await;
                carry(&mut program, &mut user, (64, 64)).await;
            });
        });
    });
}

criterion_group!(benches, bulk, ping_pong);
criterion_main!(benches);
