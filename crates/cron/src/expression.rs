//! An expression: what a person writes for when a schedule fires, read once and kept with its text.

use std::fmt;
use std::str::FromStr;

use z4_types::Duration;

use crate::calendar::Calendar;
use crate::error::{Error, Shown, SyntaxError};
use crate::every;
use crate::field::Field;
use crate::items::{self, Piece};

/// Longest expression, bytes. The longest useful one lists every minute: 170.
pub const EXPRESSION_BYTES_MAX: usize = 256;

/// Nicknames and what they stand for.
const NICKNAMES: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const OFFERS: &str = "write five fields (minutes hours day-of-month month day-of-week), six with seconds first, \
                      @hourly, @daily, @weekly, @monthly, @yearly or @every 90s";

/// When a schedule fires: fields of the calendar, or a period. The language is told in the crate's essay.
///
/// ```
/// use z4_cron::Expression;
/// let nightly: Expression = "30 2 * * MON-FRI".parse()?;
/// assert_eq!(nightly.as_str(), "30 2 * * MON-FRI");
/// let error = Expression::parse("0 24 * * *").unwrap_err();
/// assert_eq!(error.to_string(), "cron expression, column 3 (hours): `24` is not 0 to 23; write 0 to 23");
/// # Ok::<(), z4_cron::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// As it was written, without blanks around it.
    text: String,
    pub(crate) rule: Rule,
}

/// The two sorts of expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Times of the calendar in a zone. Invariant: some date matches.
    Calendar(Calendar),
    /// Elapsed time from the schedule's start. Invariant: at least a second.
    Every(Duration),
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// - [`Error::Syntax`] at the first thing that cannot be read, with what would be right.
    /// - [`Error::NeverFires`] if no date of the calendar matches, such as the 31st of February.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let rule = rule(text).map_err(|error| error.within(text))?;
        Ok(Self { text: text.trim_ascii().to_owned(), rule })
    }

    /// Returns the expression as it was written, without blanks around it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the period of an `@every`, which no zone touches; none for times of the calendar.
    #[must_use]
    pub fn period(&self) -> Option<Duration> {
        match self.rule {
            Rule::Every(period) => Some(period),
            Rule::Calendar(_) => None,
        }
    }

    /// Returns whether the zone's clock is followed through its changes, gaps and repeated hours included, as
    /// expressions with open hours or minutes are. False for named times and for `@every`.
    #[must_use]
    pub fn is_interval(&self) -> bool {
        matches!(self.rule, Rule::Calendar(Calendar { interval: true, .. }))
    }
}

impl FromStr for Expression {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn rule(text: &str) -> Result<Rule, Error> {
    if text.len() > EXPRESSION_BYTES_MAX {
        let problem = format!("it has {} bytes, more than {EXPRESSION_BYTES_MAX}", text.len());
        return Err(Error::syntax(0, None, problem, "use ranges and steps, or several schedules"));
    }
    let words = words(text);
    match words.as_slice() {
        [] => Err(Error::syntax(0, None, "it is empty", OFFERS)),
        [(at, word), rest @ ..] if word.starts_with('@') => nickname(*at, word, rest),
        [(at, word), ..] if is_zone_prefix(word) => {
            let problem = format!("{} is not part of an expression", Shown(word));
            Err(Error::syntax(*at, None, problem, "give the zone as the schedule's time zone"))
        }
        _ => calendar(text, &words).map(Rule::Calendar),
    }
}

/// Returns the words of a text and where each begins.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut at = 0;
    for word in text.split(|c: char| c.is_ascii_whitespace()) {
        if !word.is_empty() {
            words.push((at, word));
        }
        at += word.len() + 1;
    }
    words
}

fn is_zone_prefix(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| matches!(name, "TZ" | "CRON_TZ"))
}

fn nickname(at: usize, word: &str, rest: &[(usize, &str)]) -> Result<Rule, Error> {
    let extra = |words: &[(usize, &str)]| match words.first() {
        None => Ok(()),
        Some((at, more)) => {
            let problem = format!("{} is one word too many", Shown(more));
            Err(Error::syntax(*at, None, problem, "remove it"))
        }
    };
    if word.eq_ignore_ascii_case("@every") {
        let (at, period) = rest.first().copied().unwrap_or((at + word.len(), ""));
        let period = every::period(period, at)?;
        extra(&rest[1..])?;
        return Ok(Rule::Every(period));
    }
    let Some((_, fields)) = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) else {
        let instead =
            if word.eq_ignore_ascii_case("@reboot") { "push a task when you start instead" } else { OFFERS };
        return Err(Error::syntax(at, None, format!("there is no {}", Shown(word)), instead));
    };
    extra(rest)?;
    rule(fields)
}

fn calendar(text: &str, words: &[(usize, &str)]) -> Result<Calendar, Error> {
    let fields = match words.len() {
        5 => &Field::ALL[1..],
        6 => &Field::ALL[..],
        7 => {
            let (at, _) = words[6];
            let instead = "remove it: a schedule's start and pause say in which years it fires";
            return Err(Error::syntax(at, None, "a seventh field, for years, is not offered", instead));
        }
        count => {
            let (at, _) = words.get(6).copied().unwrap_or((text.trim_ascii_end().len(), ""));
            let problem = format!("there are {count} fields, not five or six");
            return Err(Error::syntax(at, None, problem, OFFERS));
        }
    };
    let pieces: Vec<Piece<'_>> =
        fields.iter().zip(words).map(|(field, (at, text))| Piece { text, at: *at, field: *field }).collect();
    let [clock @ .., minutes, hours, of_month, month, of_week] = pieces.as_slice() else {
        unreachable!("five or six fields were counted")
    };
    let seconds =
        clock.first().map_or(Ok(items::Values { bits: 1, ..Default::default() }), |it| items::plain(*it))?;
    let (minutes, hours) = (items::plain(*minutes)?, items::plain(*hours)?);
    let calendar = Calendar {
        seconds: seconds.bits,
        minutes: minutes.bits,
        hours: hours.bits,
        of_month: items::days_of_month(*of_month)?,
        months: items::plain(*month)?.bits,
        of_week: items::days_of_week(*of_week)?,
        interval: minutes.open || hours.open,
    };
    if calendar.ever() {
        return Ok(calendar);
    }
    Err(Error::NeverFires(SyntaxError::new(
        of_month.at,
        Some(Field::DayOfMonth),
        format!("it never fires: no month of {} has the days {}", Shown(month.text), Shown(of_month.text)),
        "write days that these months have, or L for the last day",
    )))
}
