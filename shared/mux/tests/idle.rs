//! What a stream holds while nothing moves on it: most of a gateway's streams are idle most of the time.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use allocation_counter::measure;
use sallyport_mux::{Arrivals, Mux, Role, Settings, Stream, connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::runtime::Builder;

/// So many that what the connection itself holds hardly counts.
const STREAMS: usize = 2_000;

/// Bytes of one stream at one end: its state, and its place in the table of the connection.
const EACH: i64 = 256;

fn end(io: DuplexStream, role: Role) -> (Mux, Arrivals) {
    let io = BufReader::with_capacity(64 * 1024, io);
    let (mux, arrivals, mut driver) = connection(io, role, Settings::default());
    tokio::spawn(async move { driver.run().await });
    (mux, arrivals)
}

/// A stream that both ends hold and on which a byte went each way.
async fn used(mux: &Mux, arrivals: &mut Arrivals) -> (Stream, Stream) {
    let mut opened = mux.open().expect("a live connection");
    opened.write_all(b"?").await.expect("a live stream");
    let mut taken = arrivals.next().await.expect("a stream");
    taken.read_u8().await.expect("the byte");
    taken.write_all(b"!").await.expect("a live stream");
    opened.read_u8().await.expect("the byte");
    (opened, taken)
}

#[test]
fn an_idle_stream_holds_little() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let (here, there) = duplex(64 * 1024);
    let ((mux, _none), (_other, mut arrivals)) =
        runtime.block_on(async { (end(here, Role::Client), end(there, Role::Server)) });
    let mut streams = Vec::with_capacity(STREAMS + 1);
    streams.push(runtime.block_on(used(&mux, &mut arrivals))); // what is made once is there now

    let memory = measure(|| {
        runtime.block_on(async {
            for _ in 0..STREAMS {
                streams.push(used(&mux, &mut arrivals).await);
            }
        });
    });
    let ends = i64::try_from(2 * STREAMS).expect("few");
    let each = memory.bytes_current / ends;
    assert!((1..=EACH).contains(&each), "{each} bytes");
}
