//! Exit codes, the same for every program (the numbers are those of `sysexits.h`).

use std::process::{ExitCode, Termination};

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// The work could not be done.
    Failure = 1,
    /// The command line was wrong.
    Usage = 64,
    /// A configuration file or a secret's permissions were wrong; starting again will not help.
    Config = 78,
}

impl Exit {
    /// What the help of every command says of the codes.
    pub const HELP: &str = "\
Exit codes:
   0  all went well
   1  it could not be done
  64  the command line is wrong
  78  a configuration file, a certificate or a secret's owner or permissions are wrong";
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}
