//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures Sallyport beside its peers on this machine. Tables go to standard output, progress to standard error.
#[derive(Debug, Parser)]
#[command(name = "sallyport-bench", version)]
pub struct Cli {
    /// The most telling rows only, with fewer bytes and rounds.
    #[arg(long)]
    pub quick: bool,
    /// Rows to measure, e.g. P1,P5. Default: all, or with --quick the quick ones.
    #[arg(long, value_delimiter = ',', ignore_case = true)]
    pub rows: Vec<String>,
    /// Rounds of each row. Default: 7, or with --quick 3.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// MiB that one measurement of throughput moves. Default: 512, or with --quick 256.
    #[arg(long)]
    pub mebibytes: Option<u64>,
    /// Writes everything that was found to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes RESULTS.md and the pictures into this folder.
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}
