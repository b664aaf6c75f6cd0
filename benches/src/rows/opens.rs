//! How fast streams are opened.

use crate::lab::Lab;
use crate::load::opens;
use crate::outcome::{Metric, Outcome, Wanted};
use crate::progress::say;
use crate::rounds::rotate;
use crate::ways::{self, Way};

pub(super) fn in_sequence(lab: &Lab) -> Outcome {
    let ways = [
        Way::Direct,
        Way::Rathole,
        Way::RatholeNoise,
        Way::Haproxy,
        Way::Tls,
        Way::Quic,
    ];
    let quick = [Way::Direct, Way::Rathole, Way::Tls, Way::Quic];
    let ways = if lab.effort.every_peer {
        &ways[..]
    } else {
        &quick
    };
    let (running, notes) = ways::start(lab, ways);
    let (rounds, count) = (lab.effort.rounds, lab.effort.opens);
    let found = rotate(rounds, &running, |round, way| {
        let rate = opens::run(way, count);
        say(&format!(
            "round {} of {rounds}: {} {rate:.0}/s",
            round + 1,
            way.name()
        ));
        rate
    });
    let mut rate = Metric::new("Streams in sequence", "/s").against(Way::Rathole.name());
    for (way, rates) in running.iter().zip(found) {
        rate.push(way.name(), rates);
    }
    let goal = rate.ratio(
        "≥ 1.5× rathole plaintext's rate",
        (Way::Tls.name(), Way::Rathole.name()),
        Wanted::AtLeast(1.5),
    );
    Outcome {
        metrics: vec![rate],
        goals: vec![goal],
        notes,
        ..Outcome::default()
    }
}
