//! What can be wrong with certificates that an operator configured.

/// A fault in a certificate, a key or a list of authorities; the operator mends it.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The text is not PEM (RFC 7468).
    #[error("the PEM text cannot be read: {0}")]
    Pem(String),
    /// There is no `CERTIFICATE` section.
    #[error("there is no certificate in it (no `-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    /// There is a private key where the certificate belongs.
    #[error("there is a private key in it and no certificate: are certificate and key exchanged?")]
    KeyForCertificate,
    /// There is no private key section.
    #[error("there is no private key in it (no `-----BEGIN PRIVATE KEY-----`)")]
    NoKey,
    /// There is a certificate where the private key belongs.
    #[error("there is a certificate in it and no private key: are certificate and key exchanged?")]
    CertificateForKey,
    /// The certificate is not valid X.509 (RFC 5280).
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The private key is damaged or of a kind that is not supported.
    #[error("the private key cannot be used: {0}")]
    Key(String),
    /// The key is not the one that the certificate was made for.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// A name is neither a DNS name nor an IP address, or there is none.
    #[error("`{0}` cannot stand in a certificate: it is neither a DNS name nor an IP address")]
    Name(String),
    /// The list of authorities is empty or none of it can be used.
    #[error("no usable certificate authority: {0}")]
    NoRoots(String),
    /// The cryptographic library refused; nothing that the operator wrote.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}
