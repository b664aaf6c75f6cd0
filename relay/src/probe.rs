//! A probe of the data plane: every byte comes back, so that a gateway counts only what really works.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// A probe that is silent this long has ended.
const IDLE: Duration = Duration::from_secs(30);

/// Most bytes of one probe: it is no way to move data.
const MAX_BYTES: usize = 64 << 10;

/// Sends back what comes until the other side is done.
///
/// # Errors
/// If the stream breaks.
pub async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<usize> {
    let mut buffer = [0; 1024];
    let mut total = 0_usize;
    while total < MAX_BYTES {
        let Ok(read) = timeout(IDLE, stream.read(&mut buffer)).await else {
            break;
        };
        let amount = read?;
        if amount == 0 {
            break;
        }
        total = total.saturating_add(amount);
        stream
            .write_all(buffer.get(..amount).unwrap_or_default())
            .await?;
        stream.flush().await?;
    }
    stream.shutdown().await?;
    Ok(total)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn every_byte_comes_back_up_to_the_limit() {
        let (mut gateway, mut relay) = duplex(256 << 10);
        gateway.write_all(&[7; 8]).await.expect("written");
        let echoed = async { echo(&mut relay).await.expect("echoed") };
        let asked = async {
            let mut answer = [0; 8];
            gateway.read_exact(&mut answer).await.expect("an answer");
            gateway
                .write_all(&vec![1; MAX_BYTES])
                .await
                .expect("written");
            let mut rest = Vec::new();
            gateway.read_to_end(&mut rest).await.expect("the end");
            (answer, rest.len())
        };
        let (total, (answer, rest)) = tokio::join!(echoed, asked);

        assert_eq!(answer, [7; 8]);
        assert!((MAX_BYTES..MAX_BYTES + 1024).contains(&total));
        assert_eq!(rest + 8, total);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_probe_ends() {
        let (mut gateway, mut relay) = duplex(64);
        assert_eq!(echo(&mut relay).await.expect("ended"), 0);
        assert_eq!(gateway.read(&mut [0; 1]).await.expect("the end"), 0);
    }
}
