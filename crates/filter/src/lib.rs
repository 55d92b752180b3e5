//! The filter language of tasks: which tasks List shows, and which Cancel, Update and Redrive touch.
//!
//! A subset of Google's AIP-160. A filter is read once, with the time that `now` shall mean, into a [`Filter`]; that
//! judges tasks one by one through [`Fields`], and tells beforehand by its [`Bounds`] where tasks that pass can lie at
//! all, so that a scan reads nothing else. Whatever is wrong with a text is said when it is read, with the column.
//!
//! ```text
//! filter   = [ term-list ]                                   nothing: every task passes
//! list     = unit { ["AND"] unit }  |  unit { "OR" unit }     side by side means AND
//! unit     = "NOT" unit  |  "(" list ")"  |  term
//! term     = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | ":" ) value
//! field    = state priority deliver_at created_at deliveries failures key group consumer last_error id
//!          | metadata.NAME | metadata["any name"]             NAME: letters, digits and _ - . /
//! value    = a word without spaces and ( ) " ' = < > ! & | , ; \
//!          | a text in "double" or 'single' quotes with \" \' \\ \* \n \r \t \u{HEX}
//! ```
//! - `state`: `=` and `!=` with waiting (due or scheduled), due (its time has come), scheduled (not yet), leased, dead,
//!   blocked, done, cancelled, expired.
//! - `priority` 0–255, `deliveries`, `failures`: whole numbers.
//! - `deliver_at`, `created_at`: RFC 3339, `now`, `now-5m`, or a span from now such as `+90m`.
//! - Texts compare by their bytes, letters as they are. With `=` and `!=` an open `*` at either end stands for any
//!   text; `:"x"` passes what contains x, `:*` what is not empty; `metadata:NAME` is `metadata.NAME:*`.
//! - `id` compares by creation order; `id = "01hq*"` passes the ids that begin so.
//!
//! ```
//! use z4_filter::{Filter, Phase};
//! use z4_types::Millis;
//!
//! let filter = Filter::parse("state = dead AND last_error:timeout", Millis(0))?;
//! assert_eq!(filter.bounds().phases().collect::<Vec<_>>(), [Phase::Dead]);
//! let error = Filter::parse("stat = dead", Millis(0)).expect_err("there is no such field");
//! assert_eq!(error.column(), 1);
//! # Ok::<(), z4_filter::ParseError>(())
//! ```
//!
//! # Invariants
//! - A task that passes lies within the bounds: see `Bounds`, and the property test of that name.
//! - `a != b` passes exactly what `a = b` does not, also for tasks without that metadata. Nothing else is true of
//!   metadata that a task does not have; its other texts are empty if nobody set them.
//! - Printing a filter and reading that again at the same `now` gives an equal one.
//! # Not here
//! - AND beside OR without parentheses: AIP-160 binds OR tighter and SQL binds AND tighter. A filter may cancel a
//!   million tasks, so we ask.
//! - Functions, `-` for NOT, words without a field, fields of payloads, ignoring case.
//! - Ids and keys in the bounds: who knows the id or the key has calls for it.
//! # Caveats
//! - `state` is what the rows say. A lease or TTL that has run out stays until the shard's next Advance.
//! - The printed form may be longer than the text that was read, so a very long one could be refused when read back.
//!
//! Sources: Google AIP-160; ADR-0011 item 3.

mod bounds;
mod error;
mod field;
mod filter;
mod lexer;
mod parse;
mod print;
mod term;
mod time;
mod value;

#[cfg(test)]
mod tests;

pub use bounds::{Bounds, Needs, Window};
pub use error::ParseError;
pub use field::{Field, Fields, Phase};
pub use filter::Filter;
pub use parse::{DEPTH_MAX, TERMS_MAX, TEXT_BYTES_MAX};
