//! `sallyport-bench`

use std::process::ExitCode;

fn main() -> ExitCode {
    sallyport_benches::supervise::main()
}
