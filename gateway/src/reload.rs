//! Files that change while the gateway runs: read, checked as a whole, and only then taken.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sallyport_certs::Reloading;
use sallyport_ops::Watch;
use tracing::{error, info, warn};

use crate::accept::Doors;
use crate::clusters;
use crate::config::Config;
use crate::files::{self, FilesError};
use crate::hub::Hub;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What follows the files.
#[derive(Debug)]
pub struct Reloader {
    /// Where keys and configuration go.
    pub hub: Arc<Hub>,
    /// Where the certificate goes.
    pub certs: Arc<Reloading>,
    /// Where the front's part of the configuration goes.
    pub doors: Arc<Doors>,
}

impl Reloader {
    /// Reads everything again, because the administrator asked for it.
    pub fn all(&self) {
        self.configuration();
        self.keys();
        self.certificate();
        self.compare();
    }

    /// Follows configuration, certificate and keys until the task is stopped. A file that is half edited is
    /// either refused as a whole or in force for the second until its other half is there.
    pub async fn follow(self: Arc<Self>) {
        let (mut configuration, mut certificate, mut keys) = self.watches();
        loop {
            tokio::select! {
                () = configuration.changed() => {
                    self.configuration();
                    self.compare();
                }
                () = certificate.changed() => self.certificate(),
                () = keys.changed() => {
                    self.keys();
                    // It may wait for its pin, which stands beside the keys.
                    self.certificate();
                    self.compare();
                }
            }
        }
    }

    /// Says what the files have to say about each other; what cannot be read was told by whoever takes it.
    fn compare(&self) {
        let config = self.hub.config();
        if let Ok(file) = files::keys(&config) {
            clusters::log(&config, &file.keys);
        }
        let identity = files::identity(&config);
        if let Ok(Err(cause)) = identity.map(|identity| files::covers(&config, &identity)) {
            warn!(%cause, "the certificate is used all the same");
        }
    }

    fn watches(&self) -> (Watch, Watch, Watch) {
        let config = self.hub.config();
        let watch = |paths: Vec<PathBuf>| Watch::new(paths, LOOK_EVERY);
        (
            watch(vec![config.path.clone()]),
            watch(vec![config.cert.clone(), config.key.clone()]),
            watch(vec![config.gateway_file.clone()]),
        )
    }

    fn certificate(&self) {
        self.taken("certificate", self.take_certificate());
    }

    fn take_certificate(&self) -> Result<(), FilesError> {
        let config = self.hub.config();
        let identity = files::identity(&config)?;
        if identity.leaf() == self.certs.current().leaf() {
            return Ok(());
        }
        files::pinned(&config, &identity)?;
        info!(names = ?identity.names(), until = %identity.not_after(), "certificate taken");
        self.certs.replace(identity);
        Ok(())
    }

    fn keys(&self) {
        self.taken("keys", self.hub.take_keys());
    }

    fn configuration(&self) {
        let before = self.hub.config().as_ref().clone();
        let read = Config::load(&before.path).map_err(FilesError::from);
        let taken = read.map(|new| {
            let (new, kept) = new.while_running(&before);
            for key in kept {
                warn!(key, "a change that needs a restart was not taken");
            }
            if new != before {
                self.hub.configure(new);
                match self.doors.reopen() {
                    Ok(()) => info!("configuration taken"),
                    Err(cause) => error!(%cause, "the front keeps its names"),
                }
            }
        });
        self.taken("configuration", taken);
    }

    fn taken(&self, what: &str, result: Result<(), FilesError>) {
        self.hub.figures.reload(result.is_ok());
        if let Err(cause) = result {
            error!(what, %cause, "not taken, what was there before stays in force");
        }
    }
}
