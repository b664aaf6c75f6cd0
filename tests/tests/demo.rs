//! `make demo` leaves nothing of its own behind, however it ends.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use sallyport_tests::{Daemon, Site, eventually, program};

#[test]
fn the_demo_leaves_nothing_behind_however_it_ends() {
    let site = Site::new();
    for signal in [Signal::INT, Signal::HUP, Signal::KILL] {
        let folder = site.path().join(format!("{signal:?}"));
        fs::create_dir(&folder).expect("writable");
        let none: &[&str] = &[];
        let log = folder.join("log");
        let mut demo = Daemon::start_with(&program("demo"), none, &log, |command| {
            command.env("TMPDIR", &folder);
        });
        eventually("the demo runs", || {
            demo.log().contains("Ctrl-C ends all of it")
        });
        assert!(has_installation(&folder));

        demo.signal(signal);
        let ended = demo.wait();

        assert_eq!(ended.success(), signal != Signal::KILL, "{ended}");
        eventually("its folder is gone", || !has_installation(&folder));
    }
}

fn has_installation(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.any(|name| name.starts_with("sp-"))
}
