//! The other form of administrators' code: a program that reads JSON and writes JSON.

use std::path::PathBuf;

use sallyport_ops::program::Done;
use sallyport_ops::{Bounds, Program, ProgramError, Programs};
use serde_json::Value;

use crate::script::{Fault, ScriptError};

/// A program that gets its input as JSON on standard input and answers with JSON on standard output.
///
/// It runs as the relay's user with an environment of its own, and is killed with its whole process group when it
/// exceeds its bounds. Writing nothing means `null`, and a status that is not 0 is a failure, told with the last line
/// of standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// Names it in errors and traces.
    pub name: String,
    /// Its absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it may use.
    pub bounds: Bounds,
}

impl Executable {
    /// Has `programs` run it on `input`.
    ///
    /// # Errors
    /// [`ScriptError`] when it cannot be run, fails, exceeds its bounds or writes something else than one JSON value.
    pub async fn call(&self, input: &Value, programs: &Programs) -> Result<Value, ScriptError> {
        self.attempt(input, programs)
            .await
            .map_err(|fault| fault.of(&self.name))
    }

    async fn attempt(&self, input: &Value, programs: &Programs) -> Result<Value, Fault> {
        if !self.program.is_absolute() {
            let program = self.program.display();
            return Err(Fault::Failed(format!("{program} is not an absolute path")));
        }
        let input = input.to_string();
        let program = Program::new(&self.program, &self.arguments);
        let run = programs.run(&program, Some(input.as_bytes()), &self.bounds);
        let done = run.await.map_err(|error| match error {
            ProgramError::TimedOut { after, .. } => Fault::TimedOut(after),
            ProgramError::TooMuch { most, .. } => Fault::TooLarge {
                what: "what it writes",
                limit: most,
            },
            ProgramError::Busy { .. } | ProgramError::Start { .. } | ProgramError::Talk { .. } => {
                Fault::Failed(error.to_string())
            }
        })?;
        answer(&done)
    }
}

fn answer(done: &Done) -> Result<Value, Fault> {
    if !done.status.success() {
        let complaint = String::from_utf8_lossy(&done.stderr);
        let last = complaint.trim_end().lines().next_back().unwrap_or_default();
        return Err(Fault::Failed(format!("{}: {last}", done.status)));
    }
    if done.stdout.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&done.stdout)
        .map_err(|error| Fault::Unusable(format!("something that is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn shell(script: &str) -> Executable {
        Executable {
            name: "licences".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            bounds: Bounds {
                time: Duration::from_secs(5),
                output: 1000,
            },
        }
    }

    async fn call(executable: &Executable, input: &Value) -> Result<Value, ScriptError> {
        executable.call(input, &Programs::new(1)).await
    }

    #[tokio::test]
    async fn json_goes_in_and_out() {
        let input = json!({ "servers": [{ "serverId": "a" }] });
        assert_eq!(call(&shell("cat"), &input).await.unwrap(), input);
        assert_eq!(call(&shell("echo"), &input).await.unwrap(), Value::Null);
    }

    #[tokio::test]
    async fn each_failure_is_named() {
        let failures = [
            (
                "echo no >&2; exit 4",
                "`licences` failed: exit status: 4: no",
            ),
            (
                "echo {",
                "`licences` returned something that is not JSON: EOF while parsing an object at line 2 column 0",
            ),
            (
                "yes",
                "`licences` exceeds a limit: what it writes may have 1000 bytes",
            ),
        ];
        for (script, said) in failures {
            let error = call(&shell(script), &Value::Null).await.unwrap_err();
            assert_eq!(error.to_string(), said);
        }
        let mut slow = shell("sleep 600");
        slow.bounds.time = Duration::from_millis(50);
        let error = call(&slow, &Value::Null).await.unwrap_err();
        assert_eq!(error.fault, Fault::TimedOut(Duration::from_millis(50)));
        slow.program = "sh".into();
        let error = call(&slow, &Value::Null).await.unwrap_err();
        assert_eq!(
            error.fault,
            Fault::Failed("sh is not an absolute path".to_owned())
        );
    }
}
