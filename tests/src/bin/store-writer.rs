//! `store-writer FILE FROM`: opens the embedded store and makes the changes of `sallyport_tests::written` from number
//! FROM on, until it is killed. It prints the number of each once the store has acknowledged it.
#![expect(clippy::expect_used, reason = "a test's program fails by panicking")]

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use sallyport_cluster::{Embedded, Key, Limits, Store as _};
use sallyport_tests::written::Step;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, from] = arguments.as_slice() else {
        return complain("store-writer FILE FROM");
    };
    match Embedded::open(Path::new(file), Limits::default()) {
        Ok(store) => write(&store, from.parse().expect("a number")).await,
        Err(error) => complain(&error.to_string()),
    }
}

async fn write(store: &Embedded, from: u64) -> ExitCode {
    for number in from.. {
        let step = Step::number(number);
        let key: Key = step.key.parse().expect("a key");
        match step.value {
            Some(value) => drop(store.put(&key, value).await.expect("put")),
            None => store.delete(&key, None).await.expect("deleted"),
        }
        writeln!(io::stdout(), "{number}").expect("somebody listens");
    }
    ExitCode::SUCCESS
}

fn complain(text: &str) -> ExitCode {
    writeln!(io::stderr(), "{text}").expect("somebody listens");
    ExitCode::FAILURE
}
