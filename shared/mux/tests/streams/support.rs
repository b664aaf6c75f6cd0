//! Two ends of a connection over a pipe.

use std::time::Duration;

use sallyport_mux::{Arrivals, Broken, Mux, Role, Settings, Stream, StreamError, connection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, duplex};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// One end, whose driver runs in a task.
pub(crate) struct End {
    pub(crate) mux: Mux,
    pub(crate) arrivals: Mutex<Arrivals>,
    pub(crate) driver: JoinHandle<Broken>,
}

pub(crate) fn end<S>(io: S, role: Role, settings: Settings) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = BufReader::with_capacity(64 * 1024, io);
    let (mux, arrivals, mut driver) = connection(io, role, settings);
    let driver = tokio::spawn(async move { driver.run().await });
    End {
        mux,
        arrivals: Mutex::new(arrivals),
        driver,
    }
}

impl End {
    pub(crate) async fn accept(&self) -> Option<Stream> {
        self.arrivals.lock().await.next().await
    }
}

/// A client and a server over a pipe that holds `room` bytes each way.
pub(crate) fn pair(room: usize, settings: &Settings) -> (End, End) {
    let (here, there) = duplex(room);
    let client = end(here, Role::Client, settings.clone());
    let server = end(there, Role::Server, settings.clone());
    (client, server)
}

/// A stream that both ends hold; one byte was sent to open it.
pub(crate) async fn stream(client: &End, server: &End) -> (Stream, Stream) {
    let mut opened = client.mux.open().expect("a live connection");
    opened.write_all(b"!").await.expect("a live stream");
    let mut taken = soon(server.accept()).await.expect("a stream");
    taken.read_u8().await.expect("the byte");
    (opened, taken)
}

/// Waits, but not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    let waiting = tokio::time::timeout(Duration::from_secs(60), future);
    waiting.await.expect("it ends soon")
}

/// Why a read or write failed.
pub(crate) fn why<T: std::fmt::Debug>(result: std::io::Result<T>) -> StreamError {
    let error = result.expect_err("an error");
    StreamError::of(&error).expect("an error of a stream")
}

/// Bytes that show where they stand: no two places within 2^32 look alike for long.
pub(crate) fn pattern(from: usize, length: usize) -> Vec<u8> {
    let byte = |place: usize| {
        let mixed = (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.to_be_bytes()[0]
    };
    (from..from + length).map(byte).collect()
}
