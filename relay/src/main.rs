//! `sallyport-relay`: dials out to gateways and reaches the sessions of its node.

use clap::Parser as _;
use sallyport_ops::Exit;
use sallyport_relay::cli::Cli;

fn main() -> Exit {
    match Cli::try_parse() {
        Ok(cli) => cli.execute(),
        Err(error) => {
            let failed = error.use_stderr();
            // Help that nobody reads is no failure.
            drop(error.print());
            if failed { Exit::Usage } else { Exit::Ok }
        }
    }
}
