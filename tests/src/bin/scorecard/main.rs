//! `make scorecard`: the figures of reconnecting and of noticing the dead, measured with the real programs in two
//! network namespaces. Exits with 1 when a goal is missed.
//!
//! That the figures hold in every case is proven in simulated time (`tests/tests/figures`); here is what a machine makes
//! of them.
#![expect(
    clippy::expect_used,
    reason = "without its programs it has nothing to say"
)]

mod card;
mod rows;

use std::io::Write as _;
use std::process::ExitCode;

use card::Card;

const USAGE: &str = "usage: scorecard [--rounds N] [--only WORD] [--json]";

/// What it is asked for.
#[derive(Debug)]
struct Wish {
    rounds: u32,
    only: String,
    json: bool,
}

impl Wish {
    fn read(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut wish = Self {
            rounds: 5,
            only: String::new(),
            json: false,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--rounds" => wish.rounds = words.next()?.parse().ok().filter(|n| *n > 0)?,
                "--only" => wish.only = words.next()?,
                "--json" => wish.json = true,
                _ => return None,
            }
        }
        Some(wish)
    }
}

fn main() -> ExitCode {
    let Some(wish) = Wish::read(std::env::args().skip(1)) else {
        drop(writeln!(std::io::stderr(), "{USAGE}"));
        return ExitCode::from(2);
    };
    let mut card = Card::new(wish.rounds);
    for (name, measure) in rows::ALL {
        if name.contains(&wish.only) {
            drop(writeln!(std::io::stderr(), "measuring: {name}"));
            measure(&mut card);
        }
    }
    let text = if wish.json {
        card.json().to_string()
    } else {
        card.table()
    };
    drop(writeln!(std::io::stdout(), "{text}")); // to whoever still listens
    ExitCode::from(u8::from(!card.is_met()))
}
