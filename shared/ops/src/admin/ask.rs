//! Asking a running process, for the commands of the command line.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures::future::{FusedFuture as _, FutureExt as _};
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{ANSWER_WITHIN, socket};

/// An answer may have this many bytes.
pub(super) const MOST_ANSWER: usize = 16 << 20;
const ASK_WITHIN: Duration = Duration::from_secs(ANSWER_WITHIN.as_secs() + 5);

/// Why a running process did not answer. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing listens on the socket.
    #[error("nothing answers on {}: is {program} running, and with this configuration?", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// The program that would listen.
        program: String,
    },
    /// This user may not open the socket.
    #[error("may not open {}: run this as root or as a member of the group sallyport-admin", socket.display())]
    Forbidden {
        /// The socket.
        socket: PathBuf,
    },
    /// It answered with an error.
    #[error("{message}")]
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// It hung up or spoke something else.
    #[error("no usable answer from {}: {cause}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        cause: String,
    },
    /// It ended while it was listened to.
    #[error("{program} has ended")]
    Ended {
        /// The program.
        program: String,
    },
    /// It took too long.
    #[error("no answer from {} within {} s", socket.display(), ASK_WITHIN.as_secs())]
    TooSlow {
        /// The socket.
        socket: PathBuf,
    },
}

/// Asks the running process at `socket`; `path` may carry a [query](super::query()).
///
/// An answer that is no JSON (`/metrics`) comes back as a JSON string.
///
/// # Errors
/// When nothing answers within 35 s, or with an error.
pub async fn ask(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<Value, AskError> {
    let request = request(socket, method, path, body)?;
    let asked = async {
        let stream = reach(socket).await?;
        exchange(stream, request)
            .await
            .map_err(|cause| broken(socket, &cause))
    };
    let (status, bytes) = timeout(ASK_WITHIN, asked)
        .await
        .map_err(|_elapsed| too_slow(socket))??;
    read(status, &bytes)
}

/// Listens to a [stream](super::Admin::stream) of the running process at `socket` until it ends, or `each` has enough
/// of it; `each` gets the bytes as they come.
///
/// # Errors
/// When nothing answers within 35 s, or with an error, and when the process ends.
pub async fn listen(
    socket: &Path,
    path: &str,
    each: impl FnMut(&Bytes) -> ControlFlow<()>,
) -> Result<(), AskError> {
    let request = request(socket, "GET", path, None)?;
    let (mut sender, connection) = timeout(ASK_WITHIN, async {
        let shaken = http1::handshake(reach(socket).await?).await;
        shaken.map_err(|cause| broken(socket, &cause))
    })
    .await
    .map_err(|_elapsed| too_slow(socket))??;
    let hearing = async move {
        let answer = timeout(ASK_WITHIN, sender.send_request(request))
            .await
            .map_err(|_elapsed| too_slow(socket))?
            .map_err(|cause| broken(socket, &cause))?;
        if answer.status().is_success() {
            return hear(answer, socket, each).await;
        }
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), MOST_ANSWER)
            .collect()
            .await;
        let bytes = bytes.map_err(|cause| broken(socket, &cause))?.to_bytes();
        read(status, &bytes).map(drop)
    };
    // the connection's own error reaches the answer as well
    let (mut connection, mut hearing) = (pin!(connection.fuse()), pin!(hearing));
    loop {
        tokio::select! {
            heard = &mut hearing => return heard,
            _ended = &mut connection, if !connection.is_terminated() => {}
        }
    }
}

async fn hear(
    answer: Response<Incoming>,
    socket: &Path,
    mut each: impl FnMut(&Bytes) -> ControlFlow<()>,
) -> Result<(), AskError> {
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let ended = |_cut| AskError::Ended {
            program: program(socket),
        };
        let frame = frame.map_err(ended)?;
        if frame.data_ref().is_some_and(|bytes| each(bytes).is_break()) {
            return Ok(());
        }
    }
    Ok(())
}

fn request(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<Request<Full<Bytes>>, AskError> {
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body));
    request.map_err(|cause| broken(socket, &cause))
}

async fn reach(socket: &Path) -> Result<TokioIo<UnixStream>, AskError> {
    let stream = socket::connect(socket).await;
    stream
        .map(TokioIo::new)
        .map_err(|cause| unreachable(socket, &cause))
}

fn broken(socket: &Path, cause: &impl ToString) -> AskError {
    AskError::Broken {
        socket: socket.to_owned(),
        cause: cause.to_string(),
    }
}

fn too_slow(socket: &Path) -> AskError {
    AskError::TooSlow {
        socket: socket.to_owned(),
    }
}

/// The program that listens on `socket`.
fn program(socket: &Path) -> String {
    let name = socket.file_stem().unwrap_or_default().to_string_lossy();
    format!("sallyport-{name}")
}

fn unreachable(socket: &Path, cause: &io::Error) -> AskError {
    let is = |kinds: &[io::ErrorKind]| kinds.contains(&cause.kind());
    if is(&[io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]) {
        AskError::NotRunning {
            program: program(socket),
            socket: socket.to_owned(),
        }
    } else if is(&[io::ErrorKind::PermissionDenied]) {
        AskError::Forbidden {
            socket: socket.to_owned(),
        }
    } else {
        broken(socket, cause)
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    io: TokioIo<UnixStream>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Cause> {
    let (mut sender, connection) = http1::handshake(io).await?;
    let answered = async move {
        let answer: Response<Incoming> = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST_ANSWER)
            .collect()
            .await?;
        Ok((status, body.to_bytes()))
    };
    // the connection's own error reaches the request as well
    let (_ended, answer) = futures::future::join(connection, answered).await;
    answer
}

fn read(status: StatusCode, bytes: &Bytes) -> Result<Value, AskError> {
    let text = || Value::from(String::from_utf8_lossy(bytes));
    let value = serde_json::from_slice(bytes).unwrap_or_else(|_not_json| text());
    if status.is_success() {
        return Ok(value);
    }
    let message = value.pointer("/error/message").and_then(Value::as_str);
    let message = message.map_or_else(|| value.to_string(), str::to_owned);
    Err(AskError::Refused { status, message })
}
