//! Why a text is no filter: where, which word, what is wrong, and what would be right.

use std::fmt;
use std::ops::Range;

use z4_types::Kind;

/// Characters shown of a long line before the place, and from it on.
const SHOWN: (usize, usize) = (60, 40);
/// A name is suggested if at most this part of it, one in so many letters, is wrong.
const TYPO_PART: usize = 3;

/// A text that is no filter. Prints the reason, the line, and a caret under the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// The word at that place, as written; empty at the end of the text.
    token: String,
    problem: String,
    /// The line, or what of it lies around the place.
    shown: String,
    /// Where in `shown` the token stands, and its length, both in characters.
    caret: (usize, usize),
}

impl ParseError {
    /// The token is `text[span]`. Invariant: the span lies within the text, on the bounds of characters.
    pub(crate) fn new(text: &str, span: Range<usize>, problem: impl Into<String>) -> Self {
        let start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let whole: Vec<char> = text[start..].chars().take_while(|letter| *letter != '\n').collect();
        let token = &text[span.clone()];
        let place = text[start..span.start].chars().count();
        let from = place.saturating_sub(SHOWN.0);
        let until = whole.len().min(place + SHOWN.1);
        let printable = |letter: &char| if letter.is_control() { ' ' } else { *letter };
        let mut shown: String = whole[from..until].iter().map(printable).collect();
        if from > 0 {
            shown.insert(0, '…');
        }
        if until < whole.len() {
            shown.push('…');
        }
        Self {
            line: text[..span.start].matches('\n').count() + 1,
            column: place + 1,
            token: token.chars().take(SHOWN.1).collect(),
            problem: problem.into(),
            shown,
            // A token may go on in the next line, the caret cannot.
            caret: (
                place - from + usize::from(from > 0),
                token.lines().next().map_or(0, |line| line.chars().count()).clamp(1, SHOWN.1),
            ),
        }
    }

    /// Returns the line of the problem, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Returns the column of the problem in its line, in characters from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }

    /// Returns the word it is about, cut if it is long; empty at the end of the text.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Returns what is wrong and what would be right, in one line without the place.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Returns what the caller should do: fix the text.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 1 {
            write!(f, "line {}, ", self.line)?;
        }
        let (indent, width) = self.caret;
        writeln!(f, "column {}: {}", self.column, self.problem)?;
        writeln!(f, "  {}", self.shown)?;
        write!(f, "  {:indent$}{:^<width$}", "", "")
    }
}

impl std::error::Error for ParseError {}

/// Returns "; did you mean …?" if one of `names` is close to what was written, else nothing.
pub(crate) fn did_you_mean(typo: &str, names: impl Iterator<Item = &'static str>) -> String {
    let close = names.map(|name| (distance(&typo.to_lowercase(), name), name));
    match close.min_by_key(|(distance, _)| *distance) {
        Some((distance, name)) if distance <= typo.len().div_ceil(TYPO_PART) => {
            format!("; did you mean {name}?")
        }
        _ => String::new(),
    }
}

/// Returns how many letters must be put in, left out or changed to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in b.iter().enumerate() {
            let above = row[column + 1];
            let changed = diagonal + usize::from(letter != *other);
            row[column + 1] = changed.min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}
