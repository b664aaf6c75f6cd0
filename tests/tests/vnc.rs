//! noVNC in Chromium reaching a real Xvnc through a `vnc` session.

use std::fs;
use std::path::Path;
use std::process::Command;

use sallyport_tests::service::{Nginx, wait_listening};
use sallyport_tests::{Daemon, Port, Site, eventually, peer_script, peers, run_ok};

/// An X server with a VNC port, and in it a terminal that writes what is typed to a file.
struct Desktop {
    port: Port,
    _server: Daemon,
    _terminal: Daemon,
}

fn desktop(folder: &Path, typed: &Path) -> Desktop {
    let port = Port::reserve();
    let display = format!(":{}", port.number());
    let server = Daemon::start(
        Path::new("/usr/bin/Xvnc"),
        &[
            &display,
            "-rfbport",
            &port.number().to_string(),
            "-localhost",
            "-SecurityTypes",
            "None",
            "-geometry",
            "800x600",
            "-depth",
            "24",
        ],
        &folder.join("xvnc.log"),
    );
    wait_listening(port.number());
    let script = format!("read line; echo \"$line\" > {}", typed.display());
    let terminal = Daemon::start_with(
        Path::new("/usr/bin/xterm"),
        &[
            "-geometry",
            "120x40+0+0",
            "-bg",
            "white",
            "-e",
            "sh",
            "-c",
            &script,
        ],
        &folder.join("xterm.log"),
        |command| {
            command.env("DISPLAY", &display);
        },
    );
    Desktop {
        port,
        _server: server,
        _terminal: terminal,
    }
}

#[test]
fn heavy_the_picture_is_not_black_and_a_typed_key_arrives() {
    let site = Site::new();
    let typed = site.path().join("typed");
    let desktop = desktop(site.path(), &typed);
    let nginx = Nginx::start(site.path(), "");
    std::os::unix::fs::symlink(
        peers().join("node/node_modules/@novnc/novnc"),
        nginx.root.join("novnc"),
    )
    .expect("a link");
    fs::copy(peer_script("node/vnc.html"), nginx.root.join("vnc.html")).expect("the page");
    let gateway = site.gateway("gw");
    let _relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "[[session]]\nid = \"pages\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n\
             [[session]]\nid = \"desk\"\nprotocol = \"vnc\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n",
            nginx.port.number(),
            desktop.port.number(),
        ),
    );
    gateway.wait_session("pages");
    gateway.wait_session("desk");

    let said = run_ok(
        Command::new("node")
            .arg(peer_script("node/vnc.mjs"))
            .arg(peers())
            .arg(gateway.session_url("pages", "/vnc.html"))
            .arg(site.path().join("screen.png"))
            .arg("hello node"),
    );

    assert!(said.contains("well"), "{said}");
    eventually("the typed line arrives", || {
        fs::read_to_string(&typed).is_ok_and(|line| line == "hello node\n")
    });
}
