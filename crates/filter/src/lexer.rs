//! Words of the text, taken one by one.
//!
//! There is no list of tokens, because what a word is depends on its place: `2030-01-31T09:30:00Z` and `now-5m` are
//! single values after an operator and nonsense elsewhere. The parser asks for what may come next.

use std::ops::Range;

use crate::ParseError;
use crate::field::Field;
use crate::term::Order;

/// Longest token of unknown kind that a message points at, in characters.
const ODD_MAX: usize = 40;

/// A place in the text. Invariant: on the bound of a character.
pub(crate) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

/// What a unit may begin with, or what ends a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start<'t> {
    End,
    Open,
    Close,
    And,
    Or,
    Not,
    Name(&'t str),
    /// Nothing that may stand here.
    Odd(&'t str),
}

/// An operator as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Order(Order),
    NotEqual,
    Has,
}

/// A value as written, before anybody knows its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) span: Range<usize>,
    /// Without quotes and escapes.
    pub(crate) text: String,
    /// Where in `text` a `*` stands that was not escaped.
    pub(crate) stars: Vec<usize>,
    pub(crate) quoted: bool,
}

impl<'t> Lexer<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn error(&self, span: Range<usize>, problem: impl Into<String>) -> ParseError {
        ParseError::new(self.text, span, problem)
    }

    /// Returns the text of a span.
    pub(crate) fn written(&self, span: Range<usize>) -> &'t str {
        &self.text[span]
    }

    /// Goes on behind a token that was looked at.
    pub(crate) fn skip(&mut self, span: &Range<usize>) {
        self.at = span.end;
    }

    /// Looks at what a unit may begin with.
    pub(crate) fn start(&mut self) -> (Start<'t>, Range<usize>) {
        self.skip_spaces();
        let rest = self.rest();
        let span = |len: usize| self.at..self.at + len;
        let Some(first) = rest.chars().next() else { return (Start::End, span(0)) };
        match first {
            '(' => (Start::Open, span(1)),
            ')' => (Start::Close, span(1)),
            'a'..='z' | 'A'..='Z' | '_' => {
                let name = &rest[..run(rest, |letter| letter.is_ascii_alphanumeric() || letter == '_')];
                let start = match name {
                    "AND" => Start::And,
                    "OR" => Start::Or,
                    "NOT" => Start::Not,
                    _ => Start::Name(name),
                };
                (start, span(name.len()))
            }
            _ => {
                let word = self.odd(self.at);
                (Start::Odd(&self.text[word.clone()]), word)
            }
        }
    }

    /// Takes a character that stands right here, without spaces before it.
    pub(crate) fn take(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    /// Takes the name behind `metadata.`; it may be empty.
    pub(crate) fn dotted_name(&mut self) -> (&'t str, Range<usize>) {
        let len = run(self.rest(), is_name_letter);
        let span = self.at..self.at + len;
        self.at += len;
        (&self.text[span.clone()], span)
    }

    /// Takes the text and the bracket behind `metadata[`.
    pub(crate) fn bracketed_name(&mut self) -> Result<Value, ParseError> {
        self.skip_spaces();
        let Some(quote @ ('"' | '\'')) = self.rest().chars().next() else {
            let found = self.odd(self.at);
            return Err(self.error(found, "the name in brackets goes in quotes: metadata[\"any name\"]"));
        };
        let name = self.quoted(quote)?;
        self.skip_spaces();
        if self.take(']') {
            return Ok(name);
        }
        let found = self.odd(self.at);
        Err(self.error(found, "the bracket after metadata is not closed; write metadata[\"any name\"]"))
    }

    /// Takes the operator behind a field.
    pub(crate) fn operator(&mut self, field: Field) -> Result<(Operator, Range<usize>), ParseError> {
        const OPERATORS: [(&str, Operator); 7] = [
            ("!=", Operator::NotEqual),
            ("<=", Operator::Order(Order::AtMost)),
            (">=", Operator::Order(Order::AtLeast)),
            ("=", Operator::Order(Order::Equal)),
            ("<", Operator::Order(Order::Less)),
            (">", Operator::Order(Order::More)),
            (":", Operator::Has),
        ];
        const FOREIGN: [(&str, &str); 7] =
            [("==", "="), ("=~", ":"), ("=>", ">="), ("=<", "<="), ("<>", "!="), ("~", ":"), ("!", "!=")];
        self.skip_spaces();
        let rest = self.rest();
        let known = OPERATORS.iter().find(|(text, _)| rest.starts_with(text));
        let foreign = FOREIGN.iter().find(|(text, _)| rest.starts_with(text));
        if let Some((text, right)) = foreign
            && known.is_none_or(|(known, _)| known.len() < text.len())
        {
            let span = self.at..self.at + text.len();
            return Err(self.error(span, format!("there is no operator {text}; write {right}")));
        }
        if let Some((text, operator)) = known {
            let span = self.at..self.at + text.len();
            self.at = span.end;
            return Ok((*operator, span));
        }
        let found = self.odd(self.at);
        let after = field.name();
        let wanted = format!("one of = != < <= > >= : must follow {after}");
        let problem = match self.written(found.clone()) {
            "" => format!("the filter ends after {after}; {wanted}"),
            word => format!("{wanted}, not {word}"),
        };
        Err(self.error(found, problem))
    }

    /// Takes the value behind an operator.
    pub(crate) fn value(&mut self, operator: &Range<usize>) -> Result<Value, ParseError> {
        self.skip_spaces();
        let sign = self.written(operator.clone());
        match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let value = self.quoted(quote)?;
                match self.rest().chars().next() {
                    Some(next) if !next.is_whitespace() && !matches!(next, '(' | ')') => {
                        let found = self.odd(self.at);
                        Err(self.error(
                            found,
                            "a space must follow the closing quote; write \\\" for a quote in a text",
                        ))
                    }
                    _ => Ok(value),
                }
            }
            Some('(') => Err(self.error(
                self.at..self.at + 1,
                "a list of values cannot stand here; write a term for each: (state = due OR state = dead)",
            )),
            _ => self.bare(sign),
        }
    }

    /// Takes a value without quotes.
    fn bare(&mut self, sign: &str) -> Result<Value, ParseError> {
        let len = run(self.rest(), |letter| !letter.is_whitespace() && !is_special(letter));
        let span = self.at..self.at + len;
        let text = self.written(span.clone());
        if text.is_empty() || matches!(text, "AND" | "OR" | "NOT") {
            let found = self.odd(self.at);
            let problem = match self.written(found.clone()) {
                "" => format!("the filter ends after {sign}; a value must follow"),
                word => format!(
                    "a value must follow {sign}, not {word}; a text with such a word or sign goes in quotes"
                ),
            };
            return Err(self.error(found, problem));
        }
        self.at = span.end;
        match self.rest().chars().next() {
            Some(next) if is_special(next) && !matches!(next, '(' | ')') => {
                let sign = self.at..self.at + next.len_utf8();
                let problem =
                    format!("{next} cannot stand in a value without quotes; put the whole value in quotes");
                Err(self.error(sign, problem))
            }
            _ => {
                let stars = text.match_indices('*').map(|(at, _)| at).collect();
                Ok(Value { span, text: text.to_owned(), stars, quoted: false })
            }
        }
    }

    /// Takes a text in quotes.
    fn quoted(&mut self, quote: char) -> Result<Value, ParseError> {
        let start = self.at;
        let (mut text, mut stars) = (String::new(), Vec::new());
        let mut at = start + 1;
        while let Some(letter) = self.text[at..].chars().next() {
            at += letter.len_utf8();
            if letter == quote {
                self.at = at;
                return Ok(Value { span: start..at, text, stars, quoted: true });
            }
            match letter {
                '\\' => {
                    let escape = &self.text[at..];
                    let Some((meant, len)) = unescape(escape) else {
                        let len = escape.chars().next().map_or(0, char::len_utf8);
                        let problem = r#"unknown escape; there are \" \' \\ \* \n \r \t and \u{HEX}"#;
                        return Err(self.error(at - 1..at + len, problem));
                    };
                    text.push(meant);
                    at += len;
                }
                _ => {
                    if letter == '*' {
                        stars.push(text.len());
                    }
                    text.push(letter);
                }
            }
        }
        Err(self.error(start..at, format!("the text that begins here has no closing {quote}")))
    }

    /// Returns where the word ends that begins here, for messages: empty at the end of the text.
    fn odd(&self, at: usize) -> Range<usize> {
        let rest = &self.text[at..];
        let len = match rest.chars().next() {
            None => 0,
            Some('(' | ')') => 1,
            Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |closing| closing + 2),
            Some(_) => {
                let ends =
                    |(_, letter): &(usize, char)| letter.is_whitespace() || matches!(letter, '(' | ')');
                let end = rest.char_indices().enumerate().find(|(count, at)| *count == ODD_MAX || ends(at));
                end.map_or(rest.len(), |(_, (at, _))| at)
            }
        };
        at..at + len
    }

    fn skip_spaces(&mut self) {
        self.at += run(self.rest(), char::is_whitespace);
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }
}

/// Returns whether a metadata name may hold the letter without brackets.
pub(crate) fn is_name_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.' | '/')
}

/// Returns whether a value that holds the letter must stand in quotes.
fn is_special(letter: char) -> bool {
    matches!(letter, '(' | ')' | '"' | '\'' | '=' | '<' | '>' | '!' | '&' | '|' | ',' | ';' | '\\')
}

/// Returns how many bytes at the start of `text` are letters that pass.
fn run(text: &str, passes: impl Fn(char) -> bool) -> usize {
    text.find(|letter| !passes(letter)).unwrap_or(text.len())
}

/// Returns the character that an escape means, and the escape's length behind the backslash.
fn unescape(escape: &str) -> Option<(char, usize)> {
    let letter = escape.chars().next()?;
    match letter {
        '"' | '\'' | '\\' | '*' => Some((letter, 1)),
        'n' => Some(('\n', 1)),
        'r' => Some(('\r', 1)),
        't' => Some(('\t', 1)),
        'u' => {
            let (hex, _) = escape[1..].strip_prefix('{')?.split_once('}')?;
            // from_str_radix would take a sign.
            let digits = (1..=6).contains(&hex.len()) && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
            let number = digits.then(|| u32::from_str_radix(hex, 16).ok())??;
            Some((char::from_u32(number)?, "u{}".len() + hex.len()))
        }
        _ => None,
    }
}
