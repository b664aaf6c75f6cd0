//! The commands that metric functions may run.

use std::path::Path;

use sallyport_ops::program::Done;
use sallyport_ops::{Bounds, Program, ProgramError, Programs};

/// Stands at the end of an allowed command for any further arguments.
const ANY_MORE: &str = "*";

/// An allow-list of commands and the bounds under which they run.
///
/// Each entry is an argument vector whose program is an absolute path: `["/opt/lm/lmstat", "-a"]` allows exactly that,
/// `["/usr/bin/pgrep", "-c", "*"]` any arguments after `-c`. There is no shell, so no argument means more than itself.
/// Where the list is empty, nothing may be run.
#[derive(Debug, Clone)]
pub struct Commands {
    allowed: Vec<Vec<String>>,
    programs: Programs,
    bounds: Bounds,
}

/// An entry of an allow-list that would not do what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an allowed command needs the absolute path of a program, without `..`: {0:?}")]
pub struct NotAllowable(Vec<String>);

/// Why a command was not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Not on the list.
    #[error("{0:?} is not among the commands that metrics may run")]
    NotAllowed(Vec<String>),
    /// It failed or exceeded its bounds.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

impl Commands {
    /// The list `allowed`, run by `programs`.
    ///
    /// # Errors
    /// [`NotAllowable`] for the first entry without an absolute program.
    pub fn new(
        allowed: Vec<Vec<String>>,
        programs: Programs,
        bounds: Bounds,
    ) -> Result<Self, NotAllowable> {
        match allowed.iter().find(|entry| !is_absolute(entry)) {
            Some(entry) => Err(NotAllowable(entry.clone())),
            None => Ok(Self {
                allowed,
                programs,
                bounds,
            }),
        }
    }

    /// Runs `argv` if it is on the list.
    pub(crate) async fn run(&self, argv: &[String]) -> Result<Done, CommandError> {
        match argv.split_first() {
            Some((command, arguments)) if self.allows(argv) => {
                let program = Program::new(command, arguments);
                Ok(self.programs.run(&program, None, &self.bounds).await?)
            }
            _ => Err(CommandError::NotAllowed(argv.to_vec())),
        }
    }

    fn allows(&self, argv: &[String]) -> bool {
        self.allowed.iter().any(|entry| match entry.split_last() {
            Some((last, fixed)) if last == ANY_MORE => argv.starts_with(fixed),
            _ => entry == argv,
        })
    }
}

/// `*` alone would allow everything, so the program is never left open.
fn is_absolute(entry: &[String]) -> bool {
    entry.first().is_some_and(|program| {
        let path = Path::new(program);
        path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn list(allowed: Vec<Vec<String>>) -> Result<Commands, NotAllowable> {
        Commands::new(allowed, Programs::new(1), Bounds::default())
    }

    fn commands() -> Commands {
        let allowed = ["/opt/lmstat -a", "/usr/bin/pgrep -c *"].map(words);
        list(allowed.to_vec()).unwrap()
    }

    #[test]
    fn only_what_is_listed_is_allowed() {
        let commands = commands();
        for allowed in [
            "/opt/lmstat -a",
            "/usr/bin/pgrep -c",
            "/usr/bin/pgrep -c x -f",
        ] {
            assert!(commands.allows(&words(allowed)), "{allowed}");
        }
        for refused in [
            "",
            "/opt/lmstat",
            "/opt/lmstat -a -b",
            "/opt/lmstat -A",
            "/opt/../opt/lmstat -a",
            "lmstat -a",
            "/usr/bin/pgrep x -c",
            "/bin/sh -c /opt/lmstat",
        ] {
            assert!(!commands.allows(&words(refused)), "{refused}");
        }
        assert!(!list(Vec::new()).unwrap().allows(&words("/opt/lmstat -a")));
    }

    #[test]
    fn a_list_that_leaves_the_program_open_is_refused() {
        for entry in ["", "*", "lmstat -a", "./lmstat", "/opt/../bin/sh *"] {
            let entry = words(entry);
            let refused = list(vec![entry.clone()]);
            assert_eq!(refused.unwrap_err(), NotAllowable(entry));
        }
    }
}
