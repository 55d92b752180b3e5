//! What is wrong with a configuration, in one line that names the source and the key.

use super::resolve::Source;

/// See the module essay. All of them end the program with exit code 2.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// A required setting is missing.
    Missing { variable: String, flag: String, help: &'static str },
    /// Nobody knows this key.
    Unknown { what: String, suggestion: Option<String> },
    /// The value cannot be understood.
    Value { source: Source, problem: String },
    /// Two settings do not go together.
    Together(String),
    /// The file cannot be read.
    File { path: String, problem: String },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing { variable, flag, help } => {
                write!(f, "{variable} is not set and has no default ({help}): set it, or give {flag}")
            }
            Self::Unknown { what, suggestion: Some(suggestion) } => {
                write!(f, "{what} is not a setting; did you mean {suggestion}?")
            }
            Self::Unknown { what, suggestion: None } => {
                write!(f, "{what} is not a setting; `z4 server --help` lists them all")
            }
            Self::Value { source, problem } => write!(f, "{source}: {problem}"),
            Self::Together(problem) => f.write_str(problem),
            Self::File { path, problem } => write!(f, "{path}: {problem}"),
        }
    }
}

impl std::error::Error for Error {}
