//! Values get their types here: what a field compares with, and what to say when it cannot.
//!
//! Each function returns whether the operator was `!=`, and the test of `=` for it.

use std::ops::Range;

use z4_types::{Millis, TaskId};

use crate::ParseError;
use crate::error::did_you_mean;
use crate::field::Field;
use crate::lexer::{Lexer, Operator, Value};
use crate::term::{ID_LETTERS, NumberField, Order, StateName, Test, TextField, TextTest, TimeField};
use crate::time;

/// Whether the operator was `!=`, and the test.
pub(crate) type Read = Result<(bool, Test), ParseError>;

/// Returns the order of an operator other than `:`, and whether it was `!=`.
pub(crate) fn order(
    lexer: &Lexer<'_>,
    field: Field,
    operator: Operator,
    at: Range<usize>,
) -> Result<(bool, Order), ParseError> {
    match operator {
        Operator::Order(order) => Ok((false, order)),
        Operator::NotEqual => Ok((true, Order::Equal)),
        Operator::Has => {
            let name = field.name();
            Err(lexer.error(at, format!(": looks into texts, and {name} is none; write = != < <= > or >=")))
        }
    }
}

/// Reads a value of `state`.
pub(crate) fn state(lexer: &Lexer<'_>, operator: Operator, at: Range<usize>, value: &Value) -> Read {
    let is_not = match operator {
        Operator::Order(Order::Equal) => false,
        Operator::NotEqual => true,
        Operator::Order(_) | Operator::Has => {
            return Err(lexer.error(at, "states have no order and are no texts; write state = or state !="));
        }
    };
    let names = StateName::ALL.map(StateName::name);
    match StateName::ALL.into_iter().find(|state| state.name() == value.text && value.stars.is_empty()) {
        Some(name) => Ok((is_not, Test::State(name))),
        None => {
            let near = did_you_mean(&value.text, names.into_iter());
            let all =
                if near.is_empty() { format!("; there are {}", names.join(", ")) } else { String::new() };
            Err(lexer.error(value.span.clone(), format!("{} is no state{near}{all}", shown(lexer, value))))
        }
    }
}

/// Reads a whole number.
pub(crate) fn number(
    lexer: &Lexer<'_>,
    field: NumberField,
    (is_not, order): (bool, Order),
    value: &Value,
) -> Read {
    let (name, max) = (field.field().name(), field.max());
    let digits = !value.text.is_empty() && value.text.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.text.parse::<u32>().ok().filter(|number| digits && *number <= max);
    match number {
        Some(number) if !value.quoted => Ok((is_not, Test::Number(field, order, number))),
        Some(number) => {
            let problem =
                format!("{name} compares with numbers, not with texts; write {number} without quotes");
            Err(lexer.error(value.span.clone(), problem))
        }
        None => {
            let found = shown(lexer, value);
            let problem = format!("{name} compares with whole numbers from 0 to {max}, not with {found}");
            Err(lexer.error(value.span.clone(), problem))
        }
    }
}

/// Reads a time.
pub(crate) fn time(
    lexer: &Lexer<'_>,
    field: TimeField,
    (is_not, order): (bool, Order),
    value: &Value,
    now: Millis,
) -> Read {
    let time = time::parse(&value.text, now).map_err(|problem| {
        let name = field.field().name();
        lexer.error(value.span.clone(), format!("{name} compares with times: {problem}"))
    })?;
    Ok((is_not, Test::Time(field, order, time)))
}

/// Reads an id, or the begin of one.
pub(crate) fn id(lexer: &Lexer<'_>, (is_not, order): (bool, Order), value: &Value) -> Read {
    let refused = |problem: String| Err(lexer.error(value.span.clone(), problem));
    let Some(&star) = value.stars.first() else {
        return match value.text.parse() {
            Ok(id) => Ok((is_not, Test::Id(order, id))),
            Err(error) => refused(format!("{} is no id: {error}", shown(lexer, value))),
        };
    };
    let start = &value.text[..star];
    if order != Order::Equal {
        return refused("* goes with = and != only".to_owned());
    }
    if star + 1 != value.text.len() || start.is_empty() {
        return refused("in an id * stands at the end only, behind one letter or more".to_owned());
    }
    if start.len() > ID_LETTERS {
        return refused(format!("an id has {ID_LETTERS} letters, these are {}", start.len()));
    }
    if !start.is_ascii() {
        return refused("ids hold digits and letters from a to z".to_owned());
    }
    match format!("{start:0<ID_LETTERS$}").parse::<TaskId>() {
        Ok(low) => Ok((is_not, Test::IdStart { low, letters: start.len() })),
        Err(error) => refused(format!("no id begins with {start}: {error}")),
    }
}

/// Reads a text.
pub(crate) fn text(lexer: &Lexer<'_>, field: TextField, operator: Operator, value: &Value) -> Read {
    let refused = |problem: String| Err(lexer.error(value.span.clone(), problem));
    let field_name = match &field {
        TextField::Metadata(_) => "metadata.NAME",
        _ => field.field().name(),
    };
    let (is_not, order) = match operator {
        Operator::Has if value.text == "*" && value.stars == [0] => {
            return Ok((false, Test::Text(field, TextTest::Present)));
        }
        Operator::Has if value.text.is_empty() => {
            return refused(format!(
                "every text contains the empty one; write {field_name}:* for what is set"
            ));
        }
        Operator::Has if value.stars.is_empty() => {
            return Ok((false, Test::Text(field, TextTest::Contains(value.text.clone()))));
        }
        Operator::Has => {
            return refused(
                r#": looks anywhere in the text; leave * out, or write "\*" for the star itself"#.to_owned(),
            );
        }
        Operator::NotEqual => (true, Order::Equal),
        Operator::Order(order) => (false, order),
    };
    if order != Order::Equal {
        if !value.stars.is_empty() {
            return refused(r#"* goes with = and != only; write "\*" for the star itself"#.to_owned());
        }
        if !value.quoted && value.text.bytes().all(|byte| byte.is_ascii_digit()) {
            let text = &value.text;
            let problem = format!(
                "{field_name} is a text, and texts compare letter by letter: \"9\" comes after \"10\"; \
                 write \"{text}\" in quotes if that is meant"
            );
            return refused(problem);
        }
        return Ok((is_not, Test::Text(field, TextTest::Compare(order, value.text.clone()))));
    }
    if value.stars.is_empty() {
        return Ok((is_not, Test::Text(field, TextTest::Compare(order, value.text.clone()))));
    }
    let last = value.text.len() - 1;
    if value.stars.iter().any(|star| *star != 0 && *star != last) {
        return refused(
            r#"* stands at the begin or the end of a text; write "\*" for the star itself"#.to_owned(),
        );
    }
    let (open_start, open_end) = (value.stars[0] == 0, value.stars.last() == Some(&last));
    let core = value.text.get(usize::from(open_start)..value.text.len() - usize::from(open_end));
    match core {
        Some(core) if !core.is_empty() => {
            Ok((is_not, Test::Text(field, TextTest::Like { core: core.to_owned(), open_start, open_end })))
        }
        _ => refused(format!("* alone is any text; write {field_name}:* for what is set")),
    }
}

/// Reads the name behind `metadata:`.
pub(crate) fn metadata_name(lexer: &Lexer<'_>, value: &Value) -> Result<Test, ParseError> {
    if !value.stars.is_empty() {
        let problem = r#"metadata: takes one whole name; write "\*" for the star itself"#;
        return Err(lexer.error(value.span.clone(), problem));
    }
    Ok(Test::Text(TextField::Metadata(value.text.clone()), TextTest::Present))
}

/// Returns the value as it was written, cut if it is long.
fn shown<'t>(lexer: &Lexer<'t>, value: &Value) -> &'t str {
    const LETTERS_MAX: usize = 60;
    let written = lexer.written(value.span.clone());
    written.char_indices().nth(LETTERS_MAX).map_or(written, |(end, _)| &written[..end])
}
