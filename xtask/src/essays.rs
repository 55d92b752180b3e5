//! Every source file opens with its essay and stays short enough to be read in one sitting.
//!
//! Checked for the files git tracks: `//!` on the first line (crate attributes and blank lines may come before), and
//! at most 600 lines before the inline tests. Files of tests may be longer; they are reported, not refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Longest file, lines, without its inline tests.
const LINES_MAX: usize = 600;

/// Checks every tracked file and returns a summary.
///
/// # Errors
/// One line for each file that has no essay or is too long.
pub(crate) fn check() -> Result<String> {
    let files = tracked()?;
    let mut wrong = Vec::new();
    let mut long_tests = Vec::new();
    for path in &files {
        // A tracked file that is not there is a removal not yet committed.
        let Ok(text) = fs::read_to_string(workspace::root().join(path)) else { continue };
        let shown = path.display();
        if !opens_with_essay(&text) {
            wrong.push(format!("{shown}: does not open with its essay: begin with `//! ` and one sentence"));
        }
        let lines = lines_before_tests(&text);
        if is_test_file(path) {
            if lines > LINES_MAX {
                long_tests.push(format!("{shown} ({lines} lines)"));
            }
        } else if lines > LINES_MAX {
            wrong.push(format!("{shown}: {lines} lines, at most {LINES_MAX}: which noun is hiding inside?"));
        }
    }
    if !wrong.is_empty() {
        bail!("source files against the style:\n  {}", wrong.join("\n  "));
    }
    let mut summary = format!("essays: {} files open with theirs", files.len());
    if !long_tests.is_empty() {
        summary += &format!("; long test files: {}", long_tests.join(", "));
    }
    Ok(summary)
}

/// Returns the Rust files that git tracks, relative to the root.
fn tracked() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--", "*.rs"])
        .current_dir(workspace::root())
        .output()
        .context("git ls-files does not start")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let names = String::from_utf8(output.stdout).context("a file name that is not UTF-8")?;
    Ok(names.split_terminator('\0').map(PathBuf::from).collect())
}

/// Returns whether the first thing in `text`, crate attributes aside, is an inner doc comment that says something.
fn opens_with_essay(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_end);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with("#!"));
    first.and_then(|line| line.strip_prefix("//!")).is_some_and(|rest| !rest.trim().is_empty())
}

/// Returns how many lines come before the inline tests, or all of them.
fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests_begin =
        |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{');
    lines.windows(2).position(tests_begin).unwrap_or(lines.len())
}

fn is_test_file(path: &Path) -> bool {
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    in_tests || path.file_name().is_some_and(|name| name == "tests.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_file_opens_with_its_essay_and_fits() {
        if let Err(error) = check() {
            // An unpacked release has no git: nothing is tracked, so nothing can be checked.
            assert!(!workspace::root().join(".git").exists(), "{error}");
        }
    }

    #[test]
    fn an_essay_is_a_sentence_at_the_top() {
        assert!(opens_with_essay("//! The log.\n\nuse std;\n"));
        assert!(opens_with_essay("#![allow(unsafe_code)]\n//! The log.\n"));
        assert!(!opens_with_essay("//!\n"));
        assert!(!opens_with_essay("// The log.\n"));
        assert!(!opens_with_essay("use std;\n//! Too late.\n"));
        assert!(!opens_with_essay(""));
    }

    #[test]
    fn inline_tests_do_not_count_and_test_files_are_known_by_name() {
        assert_eq!(lines_before_tests("//! A.\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(lines_before_tests("//! A.\n#[cfg(test)]\nmod tests;\nfn a() {}\n"), 4);
        assert!(is_test_file(Path::new("crates/x/src/disk/tests.rs")));
        assert!(is_test_file(Path::new("crates/x/tests/door.rs")));
        assert!(!is_test_file(Path::new("crates/x/src/contests.rs")));
    }
}
