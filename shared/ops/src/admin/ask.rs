//! Asking a running process, for the commands of the command line.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
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
    let broken = |cause: String| AskError::Broken {
        socket: socket.to_owned(),
        cause,
    };
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|cause| broken(cause.to_string()))?;
    let asked = async {
        let stream = socket::connect(socket)
            .await
            .map_err(|cause| unreachable(socket, &cause))?;
        exchange(TokioIo::new(stream), request)
            .await
            .map_err(|cause| broken(cause.to_string()))
    };
    let too_slow = |_elapsed| AskError::TooSlow {
        socket: socket.to_owned(),
    };
    let (status, bytes) = timeout(ASK_WITHIN, asked).await.map_err(too_slow)??;
    read(status, &bytes)
}

fn unreachable(socket: &Path, cause: &io::Error) -> AskError {
    let socket = socket.to_owned();
    let is = |kinds: &[io::ErrorKind]| kinds.contains(&cause.kind());
    if is(&[io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]) {
        let name = socket.file_stem().unwrap_or_default().to_string_lossy();
        AskError::NotRunning {
            program: format!("sallyport-{name}"),
            socket,
        }
    } else if is(&[io::ErrorKind::PermissionDenied]) {
        AskError::Forbidden { socket }
    } else {
        AskError::Broken {
            cause: cause.to_string(),
            socket,
        }
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    io: TokioIo<tokio::net::UnixStream>,
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
