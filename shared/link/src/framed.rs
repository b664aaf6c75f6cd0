//! Single messages read and written on a byte stream, without reading a byte too many.

use std::io;

use prost::Message;
use sallyport_wire::{FrameError, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FramedError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads one message. What follows it stays unread, for the mux that may begin there.
pub(crate) async fn read<M: Message + Default>(
    io: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<M, FramedError> {
    let len = usize::from(io.read_u16().await?);
    if len > max {
        return Err(FrameError::TooLong { len, max }.into());
    }
    let mut body = vec![0; len];
    io.read_exact(&mut body).await?;
    Ok(M::decode(body.as_slice()).map_err(FrameError::from)?)
}

/// Writes one message and flushes it.
pub(crate) async fn write(
    io: &mut (impl AsyncWrite + Unpin),
    message: &impl Message,
    max: usize,
) -> Result<(), FramedError> {
    let bytes = frame::encode(message, max)?;
    io.write_all(&bytes).await?;
    Ok(io.flush().await?)
}
