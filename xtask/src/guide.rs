//! `cargo xtask guide`: runs the examples of `docs/guide` against a real server, page by page, so that none is only a claim.
//!
//! A block fenced as `console` holds commands, each behind `$ `, and below each what it prints, stdout and stderr. A command
//! that fails is followed by a line `(exit code N)`. In what is printed `...` stands for any text, on a line of its own for
//! any lines. All blocks of a page are run in their order, in one shell in an empty folder, on a server of the page's own whose
//! address is in `Z4_TARGET`; other blocks are not looked at.
//!
//! # Not here
//! - Examples in Rust: those are doc tests.

mod shell;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use shell::Shell;

use crate::crash::server::{Server, build};
use crate::workspace;

/// The profile of the tests, so that nothing is built that they have not built.
const PROFILE: &str = "test";

/// Options of `guide`.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Pages to run, by name without `.md`; all if none is named.
    pages: Vec<String>,
    /// A folder with `z4` and `z4t` to use instead of building them.
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// A command of a page and what it should print.
#[derive(Debug, PartialEq, Eq)]
struct Example {
    /// Line of the command in the page, from 1.
    line: usize,
    command: String,
    expected: Vec<String>,
}

/// Runs the examples.
///
/// # Errors
/// The first example of each page that prints something else.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let programs = match &arguments.programs {
        Some(folder) => folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?,
        None => {
            build("z4t", PROFILE)?;
            let server = build("z4", PROFILE)?;
            server.parent().context("a program lies in a folder")?.to_owned()
        }
    };
    let folder = workspace::root().join("docs/guide");
    let mut pages: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("no folder {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    if !arguments.pages.is_empty() {
        let named = |page: &PathBuf| {
            arguments
                .pages
                .iter()
                .any(|name| page.file_stem().is_some_and(|stem| stem.to_string_lossy() == **name))
        };
        pages.retain(named);
        if pages.len() != arguments.pages.len() {
            bail!("no such page in {}", folder.display());
        }
    }
    pages.sort();
    let mut wrong = Vec::new();
    for path in &pages {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match page(path, &programs) {
            Ok(count) => println!("guide: {name}: {count} examples print what they say"),
            Err(error) => wrong.push(format!("{name}, {error:#}")),
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

/// Runs one page; returns how many examples it has.
fn page(path: &Path, programs: &Path) -> Result<usize> {
    let examples = examples(&fs::read_to_string(path)?);
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let work = dir.path().join("work");
    fs::create_dir(&data)?;
    fs::create_dir(&work)?;
    let mut server = Server::start(&programs.join("z4"), &data)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server.ready())?;
    let mut shell = Shell::start(programs, server.address(), &work)?;
    for example in &examples {
        let printed = shell.run(&example.command)?;
        let expected: Vec<&str> = example.expected.iter().map(String::as_str).collect();
        let lines: Vec<&str> = printed.lines().collect();
        if !fits(&expected, &lines) {
            bail!("line {}: `{}` printed\n{printed}", example.line, example.command);
        }
    }
    Ok(examples.len())
}

/// Returns the examples of a page.
fn examples(text: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            inside = !inside && line.trim_end() == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            examples.push(Example { line: at + 1, command: command.to_owned(), expected: Vec::new() });
        } else if let Some(example) = examples.last_mut().filter(|_| inside) {
            example.expected.push(line.trim_end().to_owned());
        }
    }
    examples
}

/// Returns whether what was printed is what was expected.
fn fits(expected: &[&str], printed: &[&str]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), None) => fits(rest, printed),
        (Some((&"...", rest)), Some((_, others))) => fits(rest, printed) || fits(expected, others),
        (Some((line, rest)), Some((other, others))) => {
            line_fits(line, other.trim_end()) && fits(rest, others)
        }
        _ => false,
    }
}

/// Returns whether one line is the other, whose parts between `...` it has in their order.
fn line_fits(expected: &str, printed: &str) -> bool {
    let mut parts = expected.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_console_blocks_are_examples() {
        let text =
            "a\n```sh\n$ no\n```\n```console\n$ one\nx \n$ two\n```\n$ no\n```console\n$ three\ny\n```\n";
        let found: Vec<_> =
            examples(text).into_iter().map(|each| (each.line, each.command, each.expected)).collect();
        let expected = [(6, "one", vec!["x"]), (8, "two", vec![]), (12, "three", vec!["y"])];
        let expected = expected.map(|(line, command, lines)| {
            (line, command.to_owned(), lines.into_iter().map(String::from).collect::<Vec<_>>())
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn dots_stand_for_text_and_lines() {
        let check = |expected: &str, printed: &str| {
            let lines = |text: &'static str| text.lines().collect::<Vec<_>>();
            fits(&lines(Box::leak(expected.into())), &lines(Box::leak(printed.into())))
        };
        assert!(check("a\nb", "a\nb \n"));
        assert!(check("id ... of ...", "id 7 of mail"));
        assert!(check("a\n...\nz", "a\nb\nc\nz") && check("...", ""));
        for (expected, printed) in
            [("a", "a\nb"), ("a\nb", "a"), ("a...c", "abd"), ("a\n...\nz", "a\nb"), ("", "a")]
        {
            assert!(!check(expected, printed), "{expected:?} is not {printed:?}");
        }
    }
}
