//! Properties: what prints reads back, what is written means what a naive reader thinks, what passes lies within the
//! bounds, and nothing panics.

use proptest::prelude::*;
use z4_types::{Millis, Priority, ShardId, TaskId};

use super::{NOW, Task};
use crate::{Bounds, Field, Fields, Filter, Phase, TERMS_MAX};

/// A filter as a naive reader sees it, NOT included.
#[derive(Debug, Clone)]
enum Tree {
    Term(String),
    Not(Box<Tree>),
    All(Vec<Tree>),
    Any(Vec<Tree>),
}

impl Tree {
    /// Writes it with parentheses round everything that has parts.
    fn write(&self) -> String {
        let list = |trees: &[Self], word: &str| {
            let each: Vec<String> = trees.iter().map(Self::write).collect();
            format!("({})", each.join(word))
        };
        match self {
            Self::Term(text) => text.clone(),
            Self::Not(tree) => format!("NOT {}", tree.write()),
            Self::All(trees) => list(trees, if trees.len() % 2 == 0 { " AND " } else { "\n" }),
            Self::Any(trees) => list(trees, " OR "),
        }
    }

    /// Judges a task by each term alone.
    fn matches(&self, task: &Task) -> bool {
        match self {
            Self::Term(text) => Filter::parse(text, NOW).expect("a term").matches(task),
            Self::Not(tree) => !tree.matches(task),
            Self::All(trees) => trees.iter().all(|tree| tree.matches(task)),
            Self::Any(trees) => trees.iter().any(|tree| tree.matches(task)),
        }
    }
}

/// Times and priorities from a few values around the edges, so that terms and tasks meet.
fn time() -> impl Strategy<Value = Millis> {
    let near = prop::sample::select(vec![-86_400_000i64, -60_000, -1, 0, 1, 60_000, 86_400_000]);
    let near = near.prop_map(|offset| Millis(NOW.0.checked_add_signed(offset).expect("days around now")));
    prop_oneof![8 => near, 1 => Just(Millis(0)), 1 => Just(Millis::MAX_NAMEABLE)]
}

fn small_text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[ab*\"'\\\\ ]{0,4}",
        1 => "\\PC{0,6}",
        1 => any::<String>().prop_map(|text| text.chars().take(6).collect()),
    ]
}

/// Writes a text in quotes, with every special character escaped and open stars where asked.
fn quote(text: &str, open_start: bool, open_end: bool) -> String {
    let escaped: String = text
        .chars()
        .map(|letter| match letter {
            '\'' | '\\' | '*' => format!("\\{letter}"),
            '\n' => "\\n".to_owned(),
            _ => letter.to_string(),
        })
        .collect();
    let star = |open: bool| if open { "*" } else { "" };
    format!("'{}{escaped}{}'", star(open_start), star(open_end))
}

fn task() -> impl Strategy<Value = Task> {
    let phase = prop::sample::select(Phase::ALL.to_vec());
    let priority = prop::sample::select(vec![0, 1, 127, 128, 254, 255]);
    let metadata = prop::collection::btree_map("[ab]|a b|\\PC", small_text(), 0..3);
    let numbers = (priority, time(), time(), 0..3u32, 0..3u32);
    (phase, numbers, [small_text(), small_text(), small_text(), small_text()], metadata).prop_map(
        |(phase, (priority, deliver_at, created_at, deliveries, failures), texts, metadata)| {
            let [key, group, consumer, last_error] = texts;
            let id = TaskId::new(created_at, ShardId(1), u64::from(priority));
            Task {
                id,
                phase,
                priority,
                deliver_at,
                deliveries,
                failures,
                key,
                group,
                consumer,
                last_error,
                metadata,
            }
        },
    )
}

fn term() -> impl Strategy<Value = String> {
    let order = || prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let states = "waiting due scheduled leased dead blocked done cancelled expired";
    let states: Vec<&str> = states.split(' ').collect();
    let state = (prop::sample::select(vec!["=", "!="]), prop::sample::select(states));
    let priority = prop::sample::select(vec![0, 1, 127, 128, 254, 255]);
    let count = (prop::sample::select(vec!["deliveries", "failures"]), order(), 0..4u32);
    let when = (prop::sample::select(vec!["deliver_at", "created_at"]), order(), time());
    let begin = (any::<bool>(), time(), 1..=26usize);
    let field = prop_oneof![
        prop::sample::select(vec!["key", "group", "consumer", "last_error", "metadata.a", "metadata['a b']"])
            .prop_map(str::to_owned),
        small_text().prop_map(|name| format!("metadata[{}]", quote(&name, false, false))),
    ];
    let text = (field, order(), small_text(), 0..8u8);
    prop_oneof![
        3 => state.prop_map(|(order, state)| format!("state {order} {state}")),
        3 => (order(), priority).prop_map(|(order, value)| format!("priority{order}{value}")),
        1 => count.prop_map(|(field, order, value)| format!("{field} {order} {value}")),
        4 => when.prop_map(|(field, order, at)| format!("{field} {order} {}", at.rfc3339())),
        1 => (order(), time()).prop_map(|(order, at)| format!("id {order} {}", TaskId::new(at, ShardId(1), 128))),
        1 => begin.prop_map(|(not, at, letters)| {
            let id = TaskId::new(at, ShardId(1), 128).to_string();
            format!("id {} {}*", if not { "!=" } else { "=" }, &id[..letters])
        }),
        4 => text.prop_map(|(field, order, text, how)| match how {
            0 => format!("{field}:*"),
            1 if !text.is_empty() => format!("{field}:{}", quote(&text, false, false)),
            2 | 3 if !text.is_empty() => format!("{field} = {}", quote(&text, how == 2, true)),
            4 if !text.is_empty() => format!("{field} != {}", quote(&text, true, false)),
            _ => format!("{field} {order} {}", quote(&text, false, false)),
        }),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    term().prop_map(Tree::Term).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|tree| Tree::Not(Box::new(tree))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::All),
            prop::collection::vec(inner, 1..4).prop_map(Tree::Any),
        ]
    })
}

fn parse(text: &str) -> Filter {
    Filter::parse(text, NOW).unwrap_or_else(|error| panic!("{error}"))
}

/// Words of the language in any order: close enough to filters to reach far into the parser.
fn word() -> impl Strategy<Value = String> {
    let words = "state priority deliver_at key metadata metadata.a metadata[ ] id = != < <= > >= : ( ) AND OR NOT dead \
                 due 5 256 now now-5m +90m 2026-01-01T00:00:00Z \" ' \\ * x* \"a*\" 'b' \\u{41} 06* - ! == ~ é \u{0}";
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    prop_oneof![4 => prop::sample::select(words), 1 => term()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_printed_filter_reads_back_equal(tree in tree()) {
        let filter = parse(&tree.write());
        let printed = filter.to_string();
        prop_assert_eq!(&parse(&printed), &filter, "{}", printed);
        prop_assert_eq!(parse(&printed).to_string(), printed);
    }

    #[test]
    fn a_filter_means_what_its_terms_mean_joined(tree in tree(), tasks in prop::collection::vec(task(), 8)) {
        let filter = parse(&tree.write());
        for task in &tasks {
            prop_assert_eq!(filter.matches(task), tree.matches(task), "{} on {:?}", filter, task);
        }
    }

    #[test]
    fn what_passes_lies_within_the_bounds(tree in tree(), tasks in prop::collection::vec(task(), 32)) {
        let filter = parse(&tree.write());
        let bounds = filter.bounds();
        for task in tasks.iter().filter(|task| filter.matches(*task)) {
            let window = bounds.window(task.phase);
            let inside = window.is_some_and(|window| window.holds(task.deliver_at, Priority(task.priority)));
            prop_assert!(inside, "{} passes {:?}, outside of {:?}", filter, task, window);
            prop_assert!(bounds.hull().is_some_and(|hull| hull.holds(task.deliver_at, Priority(task.priority))));
        }
    }

    #[test]
    fn bounds_of_and_intersect_and_bounds_of_or_unite(one in tree(), other in tree()) {
        let (a, b) = (one.write(), other.write());
        let bounds = |text: &str| -> Bounds { parse(text).bounds() };
        prop_assert_eq!(bounds(&format!("({a}) AND ({b})")), bounds(&a).intersect(&bounds(&b)));
        prop_assert_eq!(bounds(&format!("({a}) OR ({b})")), bounds(&a).unite(&bounds(&b)));
    }

    #[test]
    fn only_the_needed_fields_are_read(tree in tree(), task in task()) {
        let filter = parse(&tree.write());
        let needs = filter.bounds().needs();
        let _ = filter.matches(&Guarded { task, allowed: |field| needs.has(field) });
    }

    #[test]
    fn an_operator_and_its_opposite_part_all_tasks(term in term(), task in task()) {
        prop_assert_ne!(parse(&term).matches(&task), parse(&format!("NOT {term}")).matches(&task));
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        check_any(&text)?;
    }

    #[test]
    fn no_row_of_words_panics(words in prop::collection::vec((word(), any::<bool>()), 0..2 * TERMS_MAX)) {
        let text: String = words.iter().map(|(word, space)| word.clone() + if *space { " " } else { "" }).collect();
        check_any(&text)?;
        for cut in (0..text.len().min(64)).filter(|cut| text.is_char_boundary(*cut)) {
            check_any(&text[..cut])?;
        }
    }
}

/// Reads any text; an error points into it and prints.
fn check_any(text: &str) -> Result<(), TestCaseError> {
    match Filter::parse(text, NOW) {
        Ok(filter) => {
            let _ = filter.bounds();
            let printed = filter.to_string();
            if printed.len() <= crate::TEXT_BYTES_MAX {
                prop_assert_eq!(parse(&printed), filter);
            }
        }
        Err(error) => {
            let line = text.split('\n').nth(error.line() - 1);
            let line = line.ok_or_else(|| TestCaseError::fail(format!("{error}: no such line")))?;
            prop_assert!(error.column() <= line.chars().count() + 1);
            let rest: String = line.chars().skip(error.column() - 1).collect();
            let token = error.token().split('\n').next().unwrap_or_default();
            prop_assert!(rest.starts_with(token), "{} does not begin with {:?}", rest, token);
            prop_assert_eq!(error.to_string().lines().count(), 3);
        }
    }
    Ok(())
}

/// A task that panics if a field is read that was not said to be needed.
struct Guarded<A: Fn(Field) -> bool> {
    task: Task,
    allowed: A,
}

impl<A: Fn(Field) -> bool> Guarded<A> {
    fn read(&self, field: Field) -> &Task {
        assert!((self.allowed)(field), "{field:?} was not needed");
        &self.task
    }
}

impl<A: Fn(Field) -> bool> Fields for Guarded<A> {
    fn id(&self) -> TaskId {
        self.task.id
    }
    fn phase(&self) -> Phase {
        self.task.phase
    }
    fn priority(&self) -> Priority {
        Priority(self.read(Field::Priority).priority)
    }
    fn deliver_at(&self) -> Millis {
        self.task.deliver_at
    }
    fn deliveries(&self) -> u32 {
        self.read(Field::Deliveries).deliveries
    }
    fn failures(&self) -> u32 {
        self.read(Field::Failures).failures
    }
    fn key(&self) -> &str {
        &self.read(Field::Key).key
    }
    fn group(&self) -> &str {
        &self.read(Field::Group).group
    }
    fn consumer(&self) -> &str {
        &self.read(Field::Consumer).consumer
    }
    fn last_error(&self) -> &str {
        &self.read(Field::LastError).last_error
    }
    fn metadata(&self, name: &str) -> Option<&str> {
        self.read(Field::Metadata).metadata.get(name).map(String::as_str)
    }
}
