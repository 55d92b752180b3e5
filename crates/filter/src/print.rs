//! A filter as text: the short form that reads back equal, with times written out.

use std::fmt::{self, Formatter, Write as _};

use crate::filter::{Filter, Node};
use crate::lexer::is_name_letter;
use crate::term::{ID_LETTERS, Order, Term, Test, TextField, TextTest};

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        node(&self.root, f)
    }
}

fn node(shown: &Node, f: &mut Formatter<'_>) -> fmt::Result {
    let (nodes, word) = match shown {
        Node::Term(shown) => return term(shown, f),
        Node::All(nodes) => (nodes, " AND "),
        Node::Any(nodes) => (nodes, " OR "),
    };
    for (position, inner) in nodes.iter().enumerate() {
        if position > 0 {
            f.write_str(word)?;
        }
        if let Node::Term(shown) = inner {
            term(shown, f)?;
        } else {
            f.write_char('(')?;
            node(inner, f)?;
            f.write_char(')')?;
        }
    }
    Ok(())
}

fn term(shown: &Term, f: &mut Formatter<'_>) -> fmt::Result {
    let equality = match &shown.test {
        Test::State(_) | Test::IdStart { .. } | Test::Text(_, TextTest::Like { .. }) => true,
        Test::Number(_, order, _)
        | Test::Time(_, order, _)
        | Test::Id(order, _)
        | Test::Text(_, TextTest::Compare(order, _)) => *order == Order::Equal,
        Test::Text(_, TextTest::Contains(_) | TextTest::Present) => false,
    };
    if shown.negated && !equality {
        f.write_str("NOT ")?;
    }
    match &shown.test {
        Test::Text(TextField::Metadata(name), _) if is_plain(name) => write!(f, "metadata.{name}")?,
        Test::Text(TextField::Metadata(name), _) => {
            f.write_str("metadata[")?;
            quoted(name, false, false, f)?;
            f.write_char(']')?;
        }
        test => f.write_str(test.field().name())?,
    }
    let sign = |order: Order| if shown.negated && equality { "!=" } else { order.symbol() };
    match &shown.test {
        Test::State(name) => write!(f, " {} {}", sign(Order::Equal), name.name()),
        Test::Number(_, order, value) => write!(f, " {} {value}", sign(*order)),
        Test::Time(_, order, value) => write!(f, " {} {}", sign(*order), value.rfc3339()),
        Test::Id(order, value) => write!(f, " {} {value}", sign(*order)),
        Test::IdStart { low, letters } => {
            let text = low.to_string();
            debug_assert_eq!(text.len(), ID_LETTERS, "ids are printed in full");
            write!(f, " {} {}*", sign(Order::Equal), &text[..*letters])
        }
        Test::Text(_, TextTest::Compare(order, value)) => {
            write!(f, " {} ", sign(*order))?;
            quoted(value, false, false, f)
        }
        Test::Text(_, TextTest::Like { core, open_start, open_end }) => {
            write!(f, " {} ", sign(Order::Equal))?;
            quoted(core, *open_start, *open_end, f)
        }
        Test::Text(_, TextTest::Contains(value)) => {
            f.write_char(':')?;
            quoted(value, false, false, f)
        }
        Test::Text(_, TextTest::Present) => f.write_str(":*"),
    }
}

/// Returns whether a metadata name needs no brackets.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_name_letter)
}

fn quoted(text: &str, open_start: bool, open_end: bool, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    if open_start {
        f.write_char('*')?;
    }
    for letter in text.chars() {
        match letter {
            '"' | '\\' | '*' => write!(f, "\\{letter}")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            _ if letter.is_control() => write!(f, "\\u{{{:x}}}", u32::from(letter))?,
            _ => f.write_char(letter)?,
        }
    }
    if open_end {
        f.write_char('*')?;
    }
    f.write_char('"')
}
