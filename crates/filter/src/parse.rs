//! The grammar: lists, NOT, parentheses, and the words of a term.
//!
//! Recursive descent; a list knows from above whether an odd number of NOTs stands over it, and builds itself negated.

use std::ops::Range;

use z4_types::Millis;

use crate::ParseError;
use crate::error::did_you_mean;
use crate::field::Field;
use crate::filter::Node;
use crate::lexer::{Lexer, Operator, Start};
use crate::term::{NumberField, Term, TextField, TimeField};
use crate::value;

/// Longest text of a filter, bytes: as long as it may be in a URL. A longer one is refused.
pub const TEXT_BYTES_MAX: usize = 4 << 10;
/// Deepest nesting of parentheses and NOTs; it bounds the stack. A deeper one is refused.
pub const DEPTH_MAX: usize = 32;
/// Most terms of a filter; they bound what judging a task costs. More are refused.
pub const TERMS_MAX: usize = 100;

const EXAMPLE: &str = "a term is a field, an operator and a value, such as state = dead";

/// Reads a whole text.
pub(crate) fn parse(text: &str, now: Millis) -> Result<Node, ParseError> {
    if text.len() > TEXT_BYTES_MAX {
        let last = (0..=TEXT_BYTES_MAX).rfind(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let problem = format!("a filter has at most {TEXT_BYTES_MAX} bytes, this one has {}", text.len());
        return Err(ParseError::new(text, last..last, problem));
    }
    let mut parser = Parser { lexer: Lexer::new(text), now, terms: 0 };
    if parser.lexer.start().0 == Start::End {
        return Ok(Node::All(Vec::new()));
    }
    let node = parser.list(false, 0)?;
    match parser.lexer.start() {
        (Start::End, _) => Ok(node),
        (_, span) => Err(parser.lexer.error(span, "this parenthesis closes nothing")),
    }
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    now: Millis,
    /// Read so far. Invariant: at most `TERMS_MAX`.
    terms: usize,
}

impl<'t> Parser<'t> {
    /// Reads units up to the end or a closing parenthesis, which stays.
    fn list(&mut self, negated: bool, depth: usize) -> Result<Node, ParseError> {
        let mut nodes = vec![self.unit(negated, depth)?];
        let mut joined_by_or = None;
        loop {
            let (start, span) = self.lexer.start();
            let or = match start {
                Start::End | Start::Close => break,
                Start::Or => true,
                Start::And | Start::Open | Start::Not | Start::Name(_) => false,
                Start::Odd(word) => return Err(self.lexer.error(span, odd_after_term(word))),
            };
            if let Start::Name(word) = start
                && let Some(hint) = lower_case(word)
            {
                return Err(self.lexer.error(span, hint));
            }
            if *joined_by_or.get_or_insert(or) != or {
                let here =
                    if matches!(start, Start::And | Start::Or) { "" } else { " (side by side means AND)" };
                let problem = format!(
                    "AND beside OR can be read in two ways{here}; put parentheses around what belongs together, \
                     such as (a AND b) OR c"
                );
                return Err(self.lexer.error(span, problem));
            }
            if matches!(start, Start::And | Start::Or) {
                self.lexer.skip(&span);
            }
            nodes.push(self.unit(negated, depth)?);
        }
        // De Morgan: NOT (a OR b) is NOT a AND NOT b.
        Ok(Node::list(joined_by_or.unwrap_or(false) != negated, nodes))
    }

    /// Reads a term, or what stands in parentheses or behind NOT.
    fn unit(&mut self, negated: bool, depth: usize) -> Result<Node, ParseError> {
        let (start, span) = self.lexer.start();
        if matches!(start, Start::Not | Start::Open) {
            if depth == DEPTH_MAX {
                let problem = format!("parentheses and NOTs nest at most {DEPTH_MAX} deep");
                return Err(self.lexer.error(span, problem));
            }
            self.lexer.skip(&span);
        }
        match start {
            Start::Not => self.unit(!negated, depth + 1),
            Start::Open => {
                let node = self.list(negated, depth + 1)?;
                let (end, closing) = self.lexer.start();
                if end != Start::Close {
                    return Err(self.lexer.error(span, "this parenthesis is not closed"));
                }
                self.lexer.skip(&closing);
                Ok(node)
            }
            Start::Name(name) => {
                if self.terms == TERMS_MAX {
                    return Err(self.lexer.error(span, format!("a filter has at most {TERMS_MAX} terms")));
                }
                self.terms += 1;
                self.lexer.skip(&span);
                self.term(name, span, negated).map(Node::Term)
            }
            Start::End => {
                Err(self.lexer.error(span, format!("the filter ends where a term should follow; {EXAMPLE}")))
            }
            Start::Close => {
                Err(self.lexer.error(span, format!("a term should stand before this parenthesis; {EXAMPLE}")))
            }
            Start::And | Start::Or => {
                let word = self.lexer.written(span.clone());
                Err(self.lexer.error(span, format!("{word} stands between two terms; {EXAMPLE}")))
            }
            Start::Odd(word) => Err(self.lexer.error(span, odd_at_term(word))),
        }
    }

    /// Reads a term behind the first word of its field.
    fn term(&mut self, name: &'t str, span: Range<usize>, negated: bool) -> Result<Term, ParseError> {
        let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name) else {
            return Err(self.unknown_field(name, span));
        };
        let text_field = match field {
            Field::Metadata => return self.metadata(span, negated),
            Field::Key => Some(TextField::Key),
            Field::Group => Some(TextField::Group),
            Field::Consumer => Some(TextField::Consumer),
            Field::LastError => Some(TextField::LastError),
            _ => None,
        };
        let (operator, at) = self.lexer.operator(field)?;
        let value = self.lexer.value(&at)?;
        let (lexer, now) = (&self.lexer, self.now);
        let order = || value::order(lexer, field, operator, at.clone());
        let (is_not, test) = match field {
            Field::State => value::state(lexer, operator, at.clone(), &value)?,
            Field::Priority => value::number(lexer, NumberField::Priority, order()?, &value)?,
            Field::Deliveries => value::number(lexer, NumberField::Deliveries, order()?, &value)?,
            Field::Failures => value::number(lexer, NumberField::Failures, order()?, &value)?,
            Field::DeliverAt => value::time(lexer, TimeField::DeliverAt, order()?, &value, now)?,
            Field::CreatedAt => value::time(lexer, TimeField::CreatedAt, order()?, &value, now)?,
            Field::Id => value::id(lexer, order()?, &value)?,
            Field::Key | Field::Group | Field::Consumer | Field::LastError | Field::Metadata => {
                let text_field = text_field.expect("these are texts, and metadata went its own way");
                value::text(lexer, text_field, operator, &value)?
            }
        };
        Ok(Term::new(negated != is_not, test))
    }

    /// Reads a term behind the word metadata.
    fn metadata(&mut self, span: Range<usize>, negated: bool) -> Result<Term, ParseError> {
        const NAME_IT: &str = "name the metadata: metadata.NAME or metadata[\"any name\"]";
        let name = if self.lexer.take('.') {
            let (name, at) = self.lexer.dotted_name();
            if name.is_empty() {
                return Err(self.lexer.error(span.start..at.end, NAME_IT));
            }
            name.to_owned()
        } else if self.lexer.take('[') {
            self.lexer.bracketed_name()?.text
        } else {
            let (operator, at) = self.lexer.operator(Field::Metadata)?;
            if operator != Operator::Has {
                return Err(self.lexer.error(span, NAME_IT));
            }
            let value = self.lexer.value(&at)?;
            let test = value::metadata_name(&self.lexer, &value)?;
            return Ok(Term::new(negated, test));
        };
        let (operator, at) = self.lexer.operator(Field::Metadata)?;
        let value = self.lexer.value(&at)?;
        let (is_not, test) = value::text(&self.lexer, TextField::Metadata(name), operator, &value)?;
        Ok(Term::new(negated != is_not, test))
    }

    fn unknown_field(&self, name: &str, span: Range<usize>) -> ParseError {
        if let Some(hint) = lower_case(name) {
            return self.lexer.error(span, hint);
        }
        let names = Field::ALL.map(Field::name);
        let near = did_you_mean(name, names.into_iter());
        let all = if near.is_empty() { format!("; there are {}", names.join(", ")) } else { String::new() };
        self.lexer.error(span, format!("{name} is no field of a task{near}{all}"))
    }
}

/// Returns what to say of a keyword in small letters.
fn lower_case(word: &str) -> Option<String> {
    let keyword = ["AND", "OR", "NOT"].into_iter().find(|keyword| keyword.eq_ignore_ascii_case(word))?;
    Some(format!("write {keyword} in capitals"))
}

/// Returns what to say of a word that stands where a term should begin.
fn odd_at_term(word: &str) -> String {
    match word.as_bytes()[0] {
        b'-' => "- does not mean NOT here; write NOT".to_owned(),
        b'!' => "write NOT".to_owned(),
        b'"' | b'\'' => format!("a text alone is no term; {EXAMPLE}"),
        _ => format!("a term cannot begin with {word}; {EXAMPLE}"),
    }
}

/// Returns what to say of a word that stands behind a whole term.
fn odd_after_term(word: &str) -> String {
    match word {
        _ if word.starts_with("&&") => "write AND".to_owned(),
        _ if word.starts_with("||") => "write OR".to_owned(),
        "," | ";" | "&" => "write AND or OR between terms".to_owned(),
        _ if word.starts_with(['-', '!']) => odd_at_term(word),
        _ => format!("AND, OR, a term or the end must follow a term, not {word}"),
    }
}
