//! A filter that was read: judges tasks, and tells its bounds.
//!
//! # Invariants
//! - NOT is gone: it was pushed down to the terms when the text was read (De Morgan). So bounds need no complement.
//! - A list has two nodes or more and holds no list of its own kind; only the root may be empty, and passes everything.

use z4_types::Millis;

use crate::ParseError;
use crate::bounds::Bounds;
use crate::field::Fields;
use crate::parse;
use crate::term::Term;

/// Which tasks to take. Prints as a text that reads back equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub(crate) root: Node,
    /// What `now` meant when it was read: parts due from scheduled. Invariant: at most `Millis::MAX_NAMEABLE`.
    pub(crate) now: Millis,
}

/// A term, or a list of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Term(Term),
    /// AND.
    All(Vec<Node>),
    /// OR.
    Any(Vec<Node>),
}

impl Filter {
    /// Reads a filter; `now` is what the word means in it, also for due and scheduled.
    ///
    /// # Errors
    /// Always of kind `Invalid`: what is wrong, where, and what would be right.
    pub fn parse(text: &str, now: Millis) -> Result<Self, ParseError> {
        let now = now.min(Millis::MAX_NAMEABLE);
        Ok(Self { root: parse::parse(text, now)?, now })
    }

    /// Returns whether the task passes.
    #[must_use]
    pub fn matches(&self, task: &impl Fields) -> bool {
        self.root.matches(task, self.now)
    }

    /// Returns where tasks that pass can lie, and which fields are asked for.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds::of(&self.root, self.now)
    }

    /// Returns whether nothing was asked, so that every task passes. A door may refuse to cancel by such a filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.root, Node::All(nodes) if nodes.is_empty())
    }
}

impl Node {
    /// Returns the list of `nodes`, each of them a list of the other kind or a term; a list of one is that one.
    pub(crate) fn list(any: bool, mut nodes: Vec<Self>) -> Self {
        if nodes.len() == 1 {
            return nodes.remove(0);
        }
        let mut flat = Vec::with_capacity(nodes.len());
        for node in nodes {
            match (any, node) {
                (true, Self::Any(inner)) | (false, Self::All(inner)) => flat.extend(inner),
                (_, node) => flat.push(node),
            }
        }
        if any { Self::Any(flat) } else { Self::All(flat) }
    }

    fn matches(&self, task: &impl Fields, now: Millis) -> bool {
        match self {
            Self::Term(term) => term.matches(task, now),
            Self::All(nodes) => nodes.iter().all(|node| node.matches(task, now)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(task, now)),
        }
    }
}
