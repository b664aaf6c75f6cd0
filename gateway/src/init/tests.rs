use std::os::unix::fs::PermissionsExt as _;

use sallyport_ops::files;
use time::OffsetDateTime;

use super::*;
use crate::config::Config;

fn args(url: &str, dir: &Path) -> InitArgs {
    InitArgs {
        url: url.parse().expect("a URL"),
        dir: dir.to_owned(),
        cert: None,
        key: None,
        join: None,
    }
}

fn initialised(args: &InitArgs) -> (Initialised, String) {
    let mut out = Vec::new();
    let done = run(args, &mut out).expect("written");
    (done, String::from_utf8(out).expect("text"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

/// A certificate for `name` and its key as files, the key closed.
fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (cert, key) = (dir.join("given.pem"), dir.join("given-key.pem"));
    let made = self_signed(&[name.to_owned()], 30).expect("a certificate");
    files::write_new(&cert, made.cert_pem.as_bytes(), MODE_PUBLIC).expect("written");
    files::write_new(&key, made.key_pem.as_bytes(), MODE_SECRET).expect("written");
    (cert, key)
}

#[test]
fn what_it_writes_works_unedited() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("new/gateway");

    let (done, _) = initialised(&args("https://gw.example.org:8443", &dir));

    let config = Config::load(&done.config).expect("a configuration");
    assert_eq!(config.url.to_string(), "https://gw.example.org:8443");
    assert_eq!(config.listen, ["[::]:8443".parse().expect("an address")]);
    assert_eq!(
        (&config.cert, &config.key),
        (&dir.join(CERT), &dir.join(KEY))
    );
    assert_eq!(config.gateway_file, done.gateway_file);
    let pem = |path: &Path| fs::read(path).expect("PEM");
    let identity = Identity::from_pem(&pem(&config.cert), &pem(&config.key)).expect("a pair");
    assert_eq!(identity.names(), ["gw.example.org"]);
    assert_eq!(identity.pin().expect("a pin"), done.pin);
    let keys = GatewayFile::load(&done.gateway_file).expect("a gateway.json");
    assert_eq!(
        keys.gateways,
        [GatewayAddress {
            url: config.url,
            pins: vec![done.pin]
        }]
    );
    assert!(
        matches!(keys.keys.as_slice(), [key] if key.can_sign() && key.is_live(OffsetDateTime::now_utc()))
    );
}

#[test]
fn secrets_are_closed_and_the_next_step_is_told() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("gateway");

    let (done, told) = initialised(&args("https://gw.example.org:8443", &dir));

    for (name, wanted) in [(KEYS, 0o600), (KEY, 0o600), (CERT, 0o644), (CONFIG, 0o644)] {
        assert_eq!(mode(&dir.join(name)), wanted, "{name}");
    }
    assert_eq!(mode(&dir), 0o700);
    let pin = done.pin.to_string();
    for wanted in [
        pin.as_str(),
        "tcp 8443",
        "udp 8443",
        "sallyport-gateway run --config",
    ] {
        assert!(told.contains(wanted), "{wanted} in: {told}");
    }
}

#[test]
fn every_commented_line_of_the_template_is_understood() {
    let temp = tempfile::tempdir().expect("a directory");
    let (done, _) = initialised(&args("https://gw.example.org", temp.path()));
    let text = fs::read_to_string(&done.config).expect("the file");
    let in_force = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    let full = text.lines().map(in_force).collect::<Vec<_>>().join("\n");

    let full = Config::parse(&full, &done.config).expect("every key exists");

    let plain = Config::load(&done.config).expect("as written");
    assert_eq!(
        (full.tcp.len(), full.udp.len(), full.passthrough.len()),
        (1, 1, 1)
    );
    assert_eq!(
        (full.user, full.drain),
        (plain.user, plain.drain),
        "shown are the defaults"
    );
    assert!(
        !text.contains(['{', '}']),
        "a place was not filled in: {text}"
    );
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_behind() {
    for taken in [CONFIG, KEYS, CERT, KEY] {
        let temp = tempfile::tempdir().expect("a directory");
        fs::write(temp.path().join(taken), "mine").expect("written");

        let refused = run(
            &args("https://gw.example.org", temp.path()),
            &mut Vec::new(),
        );

        assert!(
            matches!(&refused, Err(InitError::Exists(path)) if path.ends_with(taken)),
            "{refused:?}"
        );
        assert_eq!(
            fs::read_dir(temp.path()).expect("a listing").count(),
            1,
            "{taken}"
        );
        assert_eq!(
            fs::read_to_string(temp.path().join(taken)).expect("a file"),
            "mine"
        );
    }
}

#[test]
fn a_given_certificate_is_used_where_it_stands_and_pinned_if_nobody_vouches_for_it() {
    let temp = tempfile::tempdir().expect("a directory");
    let (cert, key) = certificate(temp.path(), "*.example.org");
    let dir = temp.path().join("gateway");
    let args = InitArgs {
        cert: Some(cert.clone()),
        key: Some(key.clone()),
        ..args("https://gw.example.org", &dir)
    };

    let (done, told) = initialised(&args);

    let config = Config::load(&done.config).expect("a configuration");
    assert_eq!(fs::canonicalize(cert).expect("a path"), config.cert);
    assert_eq!(fs::canonicalize(key).expect("a path"), config.key);
    assert!(done.pinned && !dir.join(CERT).exists() && !told.contains("Warning"));
    let keys = GatewayFile::load(&done.gateway_file).expect("a gateway.json");
    assert!(
        keys.gateways
            .iter()
            .all(|gateway| gateway.pins == [done.pin])
    );
}

#[test]
fn a_certificate_for_another_host_is_said_so() {
    let temp = tempfile::tempdir().expect("a directory");
    let (cert, key) = certificate(temp.path(), "www.example.com");
    let dir = temp.path().join("gateway");
    let (_, told) = initialised(&InitArgs {
        cert: Some(cert),
        key: Some(key),
        ..args("https://gw.example.org", &dir)
    });
    assert!(
        told.contains("Warning: the certificate is for www.example.com, not for gw.example.org")
    );
}

#[test]
fn a_key_that_others_can_read_or_of_another_certificate_is_refused() {
    let temp = tempfile::tempdir().expect("a directory");
    let (cert, key) = certificate(temp.path(), "gw.example.org");
    let other = temp.path().join("other");
    fs::create_dir(&other).expect("a directory");
    let (_, foreign) = certificate(&other, "gw.example.org");
    let dir = temp.path().join("gateway");
    let with = |key: &Path| InitArgs {
        cert: Some(cert.clone()),
        key: Some(key.to_owned()),
        ..args("https://gw.example.org", &dir)
    };

    let refused = run(&with(&foreign), &mut Vec::new());
    assert!(matches!(
        refused,
        Err(InitError::Given(FilesError::Certificate {
            cause: CertError::KeyMismatch,
            ..
        }))
    ));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("chmod");
    let refused = run(&with(&key), &mut Vec::new()).expect_err("open to others");
    assert!(refused.to_string().contains("chmod 600"), "{refused}");
    assert!(!dir.exists());
}

#[test]
fn certificate_and_key_that_are_exchanged_are_told_so() {
    let temp = tempfile::tempdir().expect("a directory");
    let (cert, key) = certificate(temp.path(), "gw.example.org");
    let with = |cert: &Path, key: &Path| InitArgs {
        cert: Some(cert.to_owned()),
        key: Some(key.to_owned()),
        ..args("https://gw.example.org", &temp.path().join("gateway"))
    };

    let refused = run(&with(&key, &cert), &mut Vec::new()).expect_err("exchanged");

    let told = refused.to_string();
    assert!(
        told.contains("exchanged") && told.contains(&key.display().to_string()),
        "{told}"
    );
    assert!(!told.contains("chmod"), "{told}");
    assert_eq!(refused.exit(), Exit::Config);
}

#[test]
fn a_second_gateway_shares_the_keys_of_the_first() {
    let temp = tempfile::tempdir().expect("a directory");
    let (first, _) = initialised(&args("https://gw1.example.org", &temp.path().join("1")));
    let join = |url: &str| InitArgs {
        join: Some(first.gateway_file.clone()),
        ..args(url, &temp.path().join("2"))
    };

    let same = run(&join("https://GW1.example.org:443"), &mut Vec::new());
    assert!(matches!(same, Err(InitError::SameUrl { .. })));
    let (second, told) = initialised(&join("https://[2001:db8::2]"));

    let shared = GatewayFile::load(&second.gateway_file).expect("a gateway.json");
    let urls: Vec<_> = shared
        .gateways
        .iter()
        .map(|gateway| gateway.url.to_string())
        .collect();
    assert_eq!(urls, ["https://gw1.example.org", "https://[2001:db8::2]"]);
    let pins: Vec<_> = shared
        .gateways
        .iter()
        .flat_map(|gateway| &gateway.pins)
        .copied()
        .collect();
    assert_eq!(pins, [first.pin, second.pin]);
    let original = GatewayFile::load(&first.gateway_file).expect("a gateway.json");
    let twins = shared.keys.iter().zip(&original.keys);
    assert!(twins.clone().count() == 1 && twins.into_iter().all(|(a, b)| a.same_material(b)));
    assert!(told.contains("lists 2 gateways"), "{told}");
}

#[test]
fn what_root_writes_is_given_to_the_account_that_reads_it() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join(KEYS);
    fs::write(&path, "{}").expect("written");
    let owner = |path: &Path| fs::metadata(path).expect("a file").uid();
    if owner(&path) != 0 {
        return; // only root can show it
    }

    let mut written = Written::default();
    written.note(&path);
    hand_over(&written, 54_321).expect("handed over");
    assert_eq!(owner(&path), 54_321);

    written.note(&temp.path().join("absent"));
    hand_over(&written, 54_322).expect("what is not root's stays");
    assert_eq!(owner(&path), 54_321);
}
