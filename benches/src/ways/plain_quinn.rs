//! Our own peer: a tunnel with quinn's defaults.

use sallyport_tests::{Port, eventually, program};

use super::{Running, Way};
use crate::lab::Lab;

pub(super) fn start(lab: &Lab) -> Running {
    let site = lab.site();
    let (control, raw) = (Port::reserve(), Port::reserve());
    let meeting = lab.near.at(control.number()).to_string();
    let users = lab.near.at(raw.number()).to_string();
    let origin = lab.origin.address().to_string();
    let certificate = site.path().join("certificate.der");
    let path = certificate.display().to_string();
    let plain_quinn = program("plain-quinn");
    let near = ["near", &meeting, &users, &path];
    let near = lab.near.daemon(site.path(), &plain_quinn, &near);
    eventually("the certificate is made", || certificate.exists());
    let far = ["far", &meeting, &origin, &path];
    let far = lab.far.daemon(site.path(), &plain_quinn, &far);
    lab.near.wait_listening(raw.number());
    let running = Running::at(Way::PlainQuinn, lab, raw).process("near", near);
    running.process("far", far).keep(control).keep(site)
}
