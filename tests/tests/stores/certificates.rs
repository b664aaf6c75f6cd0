//! Certificates for brokers on loopback.

use std::fs;
use std::path::{Path, PathBuf};

use sallyport_certs::{Authority, Identity, Pin};
use sallyport_tests::service::Certificate;

/// A certificate for loopback, and the authority that issued it.
pub(crate) fn issued(folder: &Path, name: &str) -> (Certificate, PathBuf) {
    let authority = Authority::make(name, 2).expect("random bytes");
    let issued = authority.issue(&["127.0.0.1".to_owned()], 2);
    let issued = issued.expect("a good name");
    let write = |ending: &str, text: &str| {
        let path = folder.join(format!("{name}.{ending}"));
        fs::write(&path, text).expect("the folder is writable");
        path
    };
    let ca = write("ca.pem", authority.cert_pem());
    let cert = write("pem", &issued.cert_pem);
    let key = write("key", &issued.key_pem);
    (Certificate { cert, key }, ca)
}

/// The pin of its key.
pub(crate) fn pin(certificate: &Certificate) -> Pin {
    let read = |path: &Path| fs::read(path).expect("it was written");
    let identity = Identity::from_pem(&read(&certificate.cert), &read(&certificate.key));
    identity.and_then(|own| own.pin()).expect("a pair")
}
