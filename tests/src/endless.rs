//! A download that does not end by itself.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A client that takes a megabyte of 64 each second, until it is dropped.
#[derive(Debug)]
pub struct Endless(Child);

impl Endless {
    /// Where the download lies below the `root` that a session serves.
    ///
    /// # Panics
    /// If the folder is not writable.
    pub fn lay(root: &Path) {
        fs::write(root.join("large"), vec![b'x'; 64 << 20]).expect("writable");
    }

    /// Begins to download `url`, from a server whose certificate `ca` is trusted for.
    ///
    /// # Panics
    /// If curl is not there.
    #[must_use]
    pub fn of(url: &str, ca: &Path) -> Self {
        let curl = Command::new("curl")
            .args(["-sS", "--ipv4", "--noproxy", "*", "--limit-rate", "1M"])
            .arg("--cacert")
            .arg(ca)
            .args(["--output", "/dev/null", url])
            .stderr(Stdio::null())
            .spawn();
        Self(curl.expect("curl is installed"))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}
