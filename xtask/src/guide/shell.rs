//! The shell of a page: one for all its commands, so that a variable set in one is there in the next.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Behind it comes the exit code of the command that has ended. No program prints this.
const MARK: &str = "\u{1}ended with ";

/// A running shell.
pub(super) struct Shell {
    process: Child,
    commands: ChildStdin,
    printed: BufReader<ChildStdout>,
}

impl Shell {
    /// Starts one in the folder `work`, which finds `programs` first.
    ///
    /// # Errors
    /// There is no `sh`.
    pub(super) fn start(programs: &Path, target: &str, work: &Path) -> Result<Self> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut process = Command::new("sh")
            .args(["-c", "exec 2>&1; exec sh"])
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("Z4_TARGET", target)
            .env("NO_COLOR", "1")
            .current_dir(work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("there is no sh")?;
        let commands = process.stdin.take().context("a shell has an input")?;
        let printed = BufReader::new(process.stdout.take().context("a shell has an output")?);
        Ok(Self { process, commands, printed })
    }

    /// Runs a command; returns what it prints, and its exit code if that is not 0.
    ///
    /// # Errors
    /// The shell has ended, or what is printed is no text.
    pub(super) fn run(&mut self, command: &str) -> Result<String> {
        // What reads its input must not read the commands that follow.
        writeln!(self.commands, "{{ {command}\n}} </dev/null; printf '\\001ended with %s\\n' $?")?;
        self.commands.flush()?;
        let mut printed = String::new();
        loop {
            let before = printed.len();
            if self.printed.read_line(&mut printed)? == 0 {
                bail!("the shell ended in `{command}`, after it printed\n{printed}");
            }
            // The last line of a command may lack its end.
            let Some(at) = printed[before..].find(MARK).map(|at| before + at) else { continue };
            let code = printed[at + MARK.len()..].trim_end().to_owned();
            printed.truncate(at);
            if !printed.is_empty() && !printed.ends_with('\n') {
                printed.push('\n');
            }
            if code != "0" {
                printed.push_str(&format!("(exit code {code})\n"));
            }
            return Ok(printed);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It waits for commands and nothing else.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_outlives_its_command_and_an_input_is_empty() {
        let folder = std::env::temp_dir();
        let mut shell = Shell::start(&folder, "nowhere", &folder).expect("a shell");
        assert_eq!(shell.run("x=$(printf 'a b')").expect("ran"), "");
        assert_eq!(shell.run("printf \"$x\"; echo >&2; (exit 3)").expect("ran"), "a b\n(exit code 3)\n");
        assert_eq!(shell.run("cat; printf \"$Z4_TARGET\"").expect("ran"), "nowhere\n");
        assert!(shell.run("exit 1").is_err());
    }
}
