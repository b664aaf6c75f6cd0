//! Health checks: whether a session's program answers, asked again and again within bounds.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sallyport_ops::Tasks;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info, info_span, warn};

use crate::config::{HealthCheck, Limits};
use crate::head::Origin;
use crate::reach;
use crate::sessions::{Session, Sessions};

/// Starts one task for each session that has a check.
pub fn watch(sessions: &Arc<Sessions>, limits: &Limits, tasks: &Tasks) {
    for session in sessions.iter() {
        if session.config.health.is_some() {
            let span = info_span!("health", session = %session.id());
            tasks.spawn(
                span,
                follow(Arc::clone(sessions), Arc::clone(session), *limits),
            );
        }
    }
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No connection.
    #[error(transparent)]
    Reach(#[from] reach::ReachError),
    /// It took the connection and gave no proper answer.
    #[error("no HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    /// It answered, but not well.
    #[error("it answers {0}")]
    Status(u16),
    /// It gave no answer in time.
    #[error("no answer in time")]
    TooSlow,
    /// The request cannot be made from the configuration.
    #[error("the path cannot be asked for: {0}")]
    Path(#[from] http::Error),
}

async fn follow(sessions: Arc<Sessions>, session: Arc<Session>, limits: Limits) {
    let mut ticks = interval(limits.health_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0_u32;
    loop {
        ticks.tick().await;
        match check(&session, &limits).await {
            Ok(()) => {
                failures = 0;
                if sessions.set_down(&session, false) {
                    info!(session = %session.id(), "session is up again");
                }
            }
            Err(cause) => {
                failures = failures.saturating_add(1);
                debug!(%cause, failures, "health check failed");
                if failures >= limits.health_failures && sessions.set_down(&session, true) {
                    warn!(session = %session.id(), %cause, "session is down");
                }
            }
        }
    }
}

/// Checks a session once.
///
/// # Errors
/// Why it does not work.
pub async fn check(session: &Session, limits: &Limits) -> Result<(), CheckError> {
    let Some(health) = &session.config.health else {
        return Ok(());
    };
    let asked = async {
        let client = Origin::default();
        let upstream = reach::reach(&session.config, &client, limits.connect).await?;
        match health {
            HealthCheck::Connect => Ok(()),
            HealthCheck::Get(path) => get(upstream, path, &session.config.target.authority()).await,
        }
    };
    timeout(limits.health_within, asked)
        .await
        .unwrap_or(Err(CheckError::TooSlow))
}

/// The connection is driven beside the request, so that no task is left behind.
async fn get(upstream: reach::Upstream, path: &str, authority: &str) -> Result<(), CheckError> {
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, "sallyport-relay")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(upstream)).await?;
    let answer = async {
        let status = sender.send_request(request).await?.status().as_u16();
        if (200..400).contains(&status) {
            Ok(())
        } else {
            Err(CheckError::Status(status))
        }
    };
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answered = &mut answer => return answered,
        ended = connection => ended?,
    }
    answer.await // it was handed over before the connection ended, or tells that it never will be
}

#[cfg(test)]
mod tests;
