//! What can be wrong with what a person wrote: a place, what is wrong there, and what would be right.

use std::fmt;

use z4_types::Kind;

use crate::field::Field;

/// Why an expression or a zone was refused. All of them ask the caller to fix the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The expression cannot be read, or asks for something that is not offered.
    #[error(transparent)]
    Syntax(Box<SyntaxError>),
    /// The expression can be read, but no date of the calendar matches it.
    #[error(transparent)]
    NeverFires(Box<SyntaxError>),
    /// No zone of the bundled tables has this name.
    #[error("unknown time zone {shown}: {instead}", shown = Shown(.name))]
    UnknownZone {
        /// What was asked for.
        name: String,
        /// What would be right: the nearest name, or where names come from.
        instead: String,
        /// The nearest name there is, if one is near.
        near: Option<String>,
    },
}

/// Where an expression went wrong, and how to right it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Byte offset of the first wrong character in the text as it was given.
    pub at: usize,
    /// The same place as a person counts: characters, from 1.
    pub column: usize,
    /// The field it lies in; none for nicknames and for the number of fields.
    pub field: Option<Field>,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub instead: String,
}

impl Error {
    /// Returns what the caller should do: always fix the request.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }

    /// Returns the place in the expression, if the error is about an expression.
    #[must_use]
    pub fn place(&self) -> Option<&SyntaxError> {
        match self {
            Self::Syntax(error) | Self::NeverFires(error) => Some(error),
            Self::UnknownZone { .. } => None,
        }
    }

    pub(crate) fn syntax(
        at: usize,
        field: Option<Field>,
        problem: impl Into<String>,
        instead: impl Into<String>,
    ) -> Self {
        Self::Syntax(SyntaxError::new(at, field, problem, instead))
    }

    /// Counts the column of the place in `text`, which the place is an offset into.
    pub(crate) fn within(mut self, text: &str) -> Self {
        if let Self::Syntax(error) | Self::NeverFires(error) = &mut self {
            error.column = text.char_indices().take_while(|(at, _)| *at < error.at).count() + 1;
        }
        self
    }
}

impl SyntaxError {
    /// Returns the error without its column: that is known to `Expression::parse` alone, which has the whole text.
    pub(crate) fn new(
        at: usize,
        field: Option<Field>,
        problem: impl Into<String>,
        instead: impl Into<String>,
    ) -> Box<Self> {
        Box::new(Self { at, column: 0, field, problem: problem.into(), instead: instead.into() })
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cron expression, column {}", self.column)?;
        if let Some(field) = self.field {
            write!(f, " ({field})")?;
        }
        write!(f, ": {}; {}", self.problem, self.instead)
    }
}

impl std::error::Error for SyntaxError {}

/// Shows what a person wrote: quoted, on one line, and never longer than a message can bear.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARACTERS: usize = 40;
        let short: String = self.0.chars().take(CHARACTERS).collect();
        let rest = if short.len() < self.0.len() { "…" } else { "" };
        write!(f, "`{}{rest}`", short.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_shown_on_one_line_and_cut() {
        assert_eq!(Shown("a\nb").to_string(), "`a\\nb`");
        assert_eq!(Shown(&"ä".repeat(50)).to_string(), format!("`{}…`", "ä".repeat(40)));
    }
}
