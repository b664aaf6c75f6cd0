//! HTTP: nginx that serves a file, and another one in front of it with TLS and a tunnel between. On this machine only.

use std::fs;
use std::path::Path;

use sallyport_tests::service::{Certificate, wait_listening};
use sallyport_tests::{Daemon, Port, Site};

use super::{Running, Way, rathole};
use crate::lab::Lab;
use crate::peers;

/// What every way leads to.
pub(super) struct Pages {
    pub(super) daemon: Daemon,
    pub(super) port: Port,
}

/// Starts an nginx that serves [`super::PAGE`].
pub(super) fn pages(site: &Site) -> Result<Pages, String> {
    let root = site.path().join("root");
    fs::create_dir_all(&root).map_err(|error| error.to_string())?;
    fs::write(root.join(super::PAGE), [b'x'; 1_024]).map_err(|error| error.to_string())?;
    let large = vec![b'x'; 1024 * 1024];
    fs::write(root.join(super::LARGE), large).map_err(|error| error.to_string())?;
    let port = Port::reserve();
    let server = format!(
        "access_log off; server {{ listen 127.0.0.1:{}; root {}; }}",
        port.number(),
        root.display()
    );
    let daemon = start_nginx(site.path(), "pages", &server)?;
    wait_listening(port.number());
    Ok(Pages { daemon, port })
}

/// nginx alone: no TLS, no proxy.
pub(super) fn start_alone(lab: &Lab) -> Result<Running, String> {
    let site = lab.site();
    let Pages { daemon, port } = pages(&site)?;
    let url = format!("http://127.0.0.1:{}/{}", port.number(), super::PAGE);
    Ok(Running::at(Way::Nginx, lab, port)
        .serving(url)
        .keep(daemon)
        .keep(site))
}

/// nginx with TLS, then rathole over plain TCP, then nginx.
pub(super) fn start_tunnelled(lab: &Lab) -> Result<Running, String> {
    let site = lab.site();
    let pages = pages(&site)?;
    let target = lab.far.at(pages.port.number());
    let tunnel = rathole::tunnel(lab, &site, Way::Rathole, target)?;
    let certificate = Certificate::make(site.path(), "front", "IP:127.0.0.1");
    let port = Port::reserve();
    let server = format!(
        "access_log {base}/access.log;\nupstream tunnel {{ server 127.0.0.1:{}; keepalive 64; }}\n\
         server {{ listen 127.0.0.1:{} ssl http2; ssl_certificate {}; ssl_certificate_key {};\n\
         location / {{ proxy_pass http://tunnel; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}",
        tunnel.raw.number(),
        port.number(),
        certificate.cert.display(),
        certificate.key.display(),
        base = site.path().display(),
    );
    let front = start_nginx(site.path(), "front", &server)?;
    wait_listening(port.number());
    let url = format!("https://127.0.0.1:{}/{}", port.number(), super::PAGE);
    let running = Running::at(Way::NginxRathole, lab, port)
        .serving(url)
        .process("nginx", front);
    let running = running
        .process("rathole server", tunnel.server)
        .process("rathole client", tunnel.client);
    Ok(running
        .keep((tunnel.raw, tunnel.control))
        .keep((pages.daemon, pages.port))
        .keep(site))
}

/// nginx as Debian sets it up, but in the foreground, with connections that live as long as ours do.
fn start_nginx(folder: &Path, name: &str, http: &str) -> Result<Daemon, String> {
    let nginx = peers::find("nginx").or_else(|absent| {
        let beside = Path::new("/usr/sbin/nginx");
        beside.is_file().then(|| beside.to_owned()).ok_or(absent)
    })?;
    let base = folder.join(format!("nginx-{name}"));
    fs::create_dir_all(&base).map_err(|error| error.to_string())?;
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", base.display()))
        .concat();
    let config = format!(
        "daemon off; worker_processes auto; pid {base}/pid; error_log {base}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ sendfile on; tcp_nopush on; keepalive_requests 1000000;\n{folders}{http} }}\n",
        base = base.display(),
    );
    let path = base.join("nginx.conf");
    fs::write(&path, config).map_err(|error| error.to_string())?;
    let args = [
        "-c".as_ref(),
        path.as_os_str(),
        "-e".as_ref(),
        base.join("start.log").as_os_str(),
    ]
    .map(ToOwned::to_owned);
    Ok(Daemon::start(&nginx, &args, &base.join("log")))
}
