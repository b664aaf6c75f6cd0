//! hashicorp's yamux at the other end, in both roles. Not among the usual tests, because a Go toolchain is half a
//! gigabyte: `apt-get install golang-go golang-github-hashicorp-yamux-dev`, then
//! `cargo nextest run -p sallyport-mux --run-ignored only -E 'test(hashicorp)'`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use sallyport_mux::{Role, Settings};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::interop::echo_ours;
use crate::support::{End, end, pattern, soon};

const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// Nothing, less than a frame, a window, and several windows.
const SIZES: [usize; 6] = [0, 1, 2_000, 262_144, 262_145, 3_000_000];

/// Where Debian puts packages of Go.
const PACKAGES: &str = "/usr/share/gocode";

/// The program at the other end, built.
struct Theirs {
    program: PathBuf,
    _folder: TempDir,
}

impl Theirs {
    async fn build() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("theirs");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hashicorp/main.go");
        let mut build = Command::new("go");
        build.arg("build").arg("-o").arg(&program).arg(source);
        build
            .envs([("GO111MODULE", "off"), ("GOPATH", PACKAGES)])
            .env("GOCACHE", folder.path().join("cache"));
        let built = build.status().await.expect("golang-go is installed");
        assert!(
            built.success(),
            "golang-github-hashicorp-yamux-dev is installed"
        );
        Self {
            program,
            _folder: folder,
        }
    }

    /// It and our end, which has the other role.
    async fn meet(&self, ours: Role, job: &str, sizes: &[usize]) -> (End, Child) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let role = match ours {
            Role::Client => "server",
            Role::Server => "client",
        };
        let sizes = sizes.iter().map(ToString::to_string);
        let child = Command::new(&self.program)
            .args([role, job, &address])
            .args(sizes)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let (socket, _) = soon(listener.accept()).await.expect("it comes");
        let end = end(socket, ours, Settings::default());
        (end, child.expect("it was built"))
    }
}

#[tokio::test]
#[ignore = "needs golang-go and golang-github-hashicorp-yamux-dev"]
async fn hashicorp_answers_what_we_ask() {
    let theirs = Theirs::build().await;
    for role in ROLES {
        let (ours, _echoing) = theirs.meet(role, "echo", &[]).await;
        let asking = SIZES.map(|size| ask(&ours, size));
        soon(futures::future::join_all(asking)).await;
    }
}

/// Sends, reads back and only then ends: with this package an end that comes on the last bytes may be read before them.
async fn ask(ours: &End, size: usize) {
    let (mut reader, mut writer) = tokio::io::split(ours.mux.open().expect("live"));
    let (sent, mut got) = (pattern(0, size), vec![0; size]);
    let (written, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut got));
    written.expect("live");
    read.expect("as many bytes");
    assert!(got == sent, "{size} bytes came back changed");
    writer.shutdown().await.expect("live");
    assert_eq!(reader.read(&mut [0]).await.expect("an orderly end"), 0);
}

#[tokio::test]
#[ignore = "needs golang-go and golang-github-hashicorp-yamux-dev"]
async fn hashicorp_is_answered_what_it_asks() {
    let theirs = Theirs::build().await;
    for role in ROLES {
        let (ours, mut asking) = theirs.meet(role, "ask", &SIZES).await;
        let asked = soon(async {
            tokio::select! {
                () = echo_ours(&ours) => asking.wait().await,
                asked = asking.wait() => asked,
            }
        });
        assert!(asked.await.expect("it ran").success());
    }
}
