//! curl over HTTP/1.1 and HTTP/2 to nginx behind a session.

use std::fs;
use std::process::Command;

use sallyport_tests::service::{Nginx, random_file, sha256};
use sallyport_tests::{Gateway, Relay, Site, run_ok};

const GIB: u64 = 1 << 30;

struct Web {
    nginx: Nginx,
    gateway: Gateway,
    _relay: Relay,
    site: Site,
}

impl Web {
    fn start() -> Self {
        let site = Site::new();
        let nginx = Nginx::start(site.path(), "");
        let gateway = site.gateway("gw");
        let relay = site.relay(
            "node-a",
            &gateway,
            &format!(
                "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n\
                 [[session]]\nid = \"kept\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n\
                 strip_prefix = false\n",
                port = nginx.port.number(),
            ),
        );
        gateway.wait_session("web");
        gateway.wait_session("kept");
        Self {
            site,
            nginx,
            gateway,
            _relay: relay,
        }
    }

    fn url(&self, path: &str) -> String {
        self.gateway.session_url("web", path)
    }
}

const BOTH: [&str; 2] = ["--http1.1", "--http2"];

#[test]
fn get_strips_the_prefix_and_tells_the_session_who_asks() {
    let web = Web::start();

    for version in BOTH {
        let answer = web
            .gateway
            .curl()
            .arg(version)
            .arg(web.url("/echo"))
            .go()
            .expect(200);
        let seen = answer.text();
        assert!(seen.starts_with("GET /echo "), "{seen}");
        assert!(seen.contains("for=127.0.0.1"), "{seen}");
        assert!(seen.contains("proto=https"), "{seen}");
        assert!(seen.contains("prefix=/s/web"), "{seen}");
        assert!(answer.header("x-request-id").is_some(), "{}", answer.head);

        let kept = web.gateway.session_url("kept", "/echo");
        let kept = web.gateway.curl().arg(version).arg(kept).go();
        assert_eq!(kept.status(), 404, "nginx has no /s/kept/echo");
    }
}

#[test]
fn a_client_of_http_1_0_is_served() {
    let web = Web::start();

    let curl = web.gateway.curl().arg("--http1.0");
    let answer = curl.arg(web.url("/echo")).go().expect(200);

    assert!(answer.text().starts_with("GET /echo "), "{}", answer.text());
}

#[test]
fn what_a_client_claims_of_itself_is_dropped() {
    let web = Web::start();

    let claims = [
        "-H",
        "X-Forwarded-For: 6.6.6.6",
        "-H",
        "X-Forwarded-Proto: http",
        "-H",
        "Forwarded: for=6.6.6.6",
    ];
    let answer = web
        .gateway
        .curl()
        .args(&claims)
        .arg(web.url("/echo"))
        .go()
        .expect(200);

    assert!(!answer.text().contains("6.6.6.6"), "{}", answer.text());
    assert!(answer.text().contains("proto=https"), "{}", answer.text());
}

#[test]
fn head_ranges_and_not_modified_are_the_sessions_own() {
    let web = Web::start();
    fs::write(web.nginx.root.join("page.html"), "0123456789").expect("the folder is writable");

    for version in BOTH {
        let curl = || web.gateway.curl().arg(version);
        let head = curl()
            .arg("--head")
            .arg(web.url("/page.html"))
            .go()
            .expect(200);
        assert_eq!(head.header("content-length").as_deref(), Some("10"));
        assert!(head.body.is_empty() || head.text().starts_with("HTTP/"));

        let range = curl()
            .args(&["--range", "2-4"])
            .arg(web.url("/page.html"))
            .go()
            .expect(206);
        assert_eq!(range.text(), "234");

        let tag = head.header("etag").expect("nginx sends one");
        let condition = format!("If-None-Match: {tag}");
        let same = curl()
            .args(&["-H", &condition])
            .arg(web.url("/page.html"))
            .go()
            .expect(304);
        assert!(same.body.is_empty());
    }
}

#[test]
fn a_hundred_at_once() {
    let web = Web::start();
    let sum = web.nginx.random_file("many", 300_000);

    for version in BOTH {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--parallel",
            "--parallel-max",
            "100",
            version,
        ]);
        curl.arg("--cacert").arg(web.gateway.certificate());
        for number in 0..100 {
            let out = web.site.path().join(format!("many-{number}"));
            curl.arg("--output")
                .arg(out)
                .arg(web.url(&format!("/many?{number}")));
        }
        run_ok(&mut curl);
        for number in 0..100 {
            assert_eq!(sha256(&web.site.path().join(format!("many-{number}"))), sum);
        }
    }
}

#[test]
fn an_upload_that_waits_for_100_continue_gets_it() {
    let web = Web::start();
    let file = web.site.path().join("up");
    let sum = random_file(&file, 3_000_000);

    let upload = web
        .gateway
        .curl()
        .args(&[
            "--http1.1",
            "-H",
            "Expect: 100-continue",
            "--expect100-timeout",
            "60",
            "--upload-file",
        ])
        .arg(&file)
        .arg(web.url("/upload/waited"))
        .go()
        .expect(201);

    assert!(upload.head.starts_with("HTTP/1.1 100"), "{}", upload.head);
    assert_eq!(sha256(&web.nginx.root.join("upload/waited")), sum);
}

#[test]
fn a_chunked_upload_arrives_whole() {
    let web = Web::start();
    let file = web.site.path().join("up");
    let sum = random_file(&file, 5_000_000);

    for (version, name) in [("--http1.1", "c1"), ("--http2", "c2")] {
        let url = web.url(&format!("/upload/{name}"));
        let curl = web.gateway.curl().args(&[
            version,
            "-H",
            "Transfer-Encoding: chunked",
            "-H",
            "Expect:",
        ]);
        let curl = if version == "--http2" {
            web.gateway.curl().arg(version)
        } else {
            curl
        };
        drop(
            curl.arg("--upload-file")
                .arg(&file)
                .arg(url)
                .go()
                .expect(201),
        );
        assert_eq!(
            sha256(&web.nginx.root.join("upload").join(name)),
            sum,
            "{version}"
        );
    }
}

/// What becomes of a large upload whose answer comes first: always the answer, never a broken stream.
#[test]
fn an_upload_that_is_answered_early_gets_the_answer() {
    let site = Site::new();
    let nginx = Nginx::start(
        site.path(),
        "location /small/ { client_max_body_size 1m; dav_methods PUT; }",
    );
    // However slowly curl is scheduled, it shall see the answer before it is told to stop.
    let gateway = site.gateway_with("gw", "127.0.0.1", "[limits]\nlinger = \"60s\"\n");
    let session = format!(
        "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n",
        nginx.port.number()
    );
    let _relay = site.relay("node-a", &gateway, &session);
    gateway.wait_session("web");
    let file = site.path().join("up");
    drop(random_file(&file, 20_000_000));

    for version in BOTH {
        for (session, expected) in [("web", 413), ("nothing", 404)] {
            let url = gateway.session_url(session, "/small/up");
            let upload = |length: &[&str]| {
                gateway
                    .curl()
                    .arg(version)
                    .args(&["-H", "Expect:"])
                    .args(length)
            };
            for _ in 0..5 {
                let known = upload(&["--upload-file"]).arg(&file).arg(&url);
                drop(known.go().expect(expected));
                let unknown = upload(&["-H", "Transfer-Encoding: chunked", "--upload-file"]);
                drop(unknown.arg(&file).arg(&url).go().expect(expected));
            }
        }
    }
}

#[test]
fn heavy_a_gibibyte_down_and_up_with_equal_sums() {
    let web = Web::start();
    let sum = web.nginx.random_file("big", GIB);
    let source = web.nginx.root.join("big");

    for (version, name) in [("--http1.1", "u1"), ("--http2", "u2")] {
        let got = web.site.path().join("got");
        let down = web
            .gateway
            .curl()
            .arg(version)
            .arg("--output")
            .arg(&got)
            .arg(web.url("/big"));
        drop(down.go().expect(200));
        assert_eq!(sha256(&got), sum, "download over {version}");

        let url = web.url(&format!("/upload/{name}"));
        let up = web
            .gateway
            .curl()
            .arg(version)
            .arg("--upload-file")
            .arg(&source)
            .arg(url);
        drop(up.go().expect(201));
        let landed = web.nginx.root.join("upload").join(name);
        assert_eq!(sha256(&landed), sum, "upload over {version}");
        fs::remove_file(landed).expect("it was there");
    }
}
