//! The arrows of the architecture, as a test: which crate may depend on which.
//!
//! A reader trusts that `z4-consensus` cannot see a task and that `z4-tasks` cannot see a file, because their
//! manifests say so and this check keeps the manifests honest. A new crate must be given a row here first.
//!
//! # Not here
//! - Which functions a crate may call (clocks, dice, hash maps): clippy's disallowed lists guard that.
//! - Dependencies of tests: a test may use what it likes, except the two engines that have one home each.

use anyhow::{Result, bail};

use crate::workspace::{Crate, Use};

/// What a crate may use of the workspace.
enum Sees {
    Only(&'static [&'static str]),
    AnythingBut(&'static [&'static str]),
}

use Sees::{AnythingBut, Only};

/// The arrows. `z4-sim` is seen by nobody: no row allows it.
const ARROWS: &[(&str, Sees)] = &[
    ("z4-types", Only(&[])),
    ("z4-env", Only(&["z4-types"])),
    ("z4-consensus", Only(&["z4-types"])),
    ("z4-tasks", Only(&["z4-types"])),
    ("z4-filter", Only(&["z4-types"])),
    ("z4-registry", Only(&["z4-types"])),
    ("z4-cron", Only(&["z4-types"])),
    ("z4-proto", Only(&["z4-types", "z4-tasks"])),
    ("z4-wal", Only(&["z4-types", "z4-env"])),
    ("z4-store", Only(&["z4-types", "z4-env"])),
    ("z4-transport", Only(&["z4-types", "z4-env"])),
    ("z4-multiraft", Only(&["z4-types", "z4-env", "z4-consensus", "z4-wal", "z4-store"])),
    (
        "z4-host",
        Only(&[
            "z4-types",
            "z4-env",
            "z4-consensus",
            "z4-wal",
            "z4-store",
            "z4-tasks",
            "z4-cron",
            "z4-registry",
            "z4-multiraft",
            "z4-transport",
        ]),
    ),
    ("z4-client", Only(&["z4-types", "z4-proto", "z4-tasks"])),
    ("z4-api", Only(&["z4-types", "z4-proto", "z4-host", "z4-tasks", "z4-filter"])),
    ("z4-http", Only(&["z4-types", "z4-host"])),
    ("z4-sim", AnythingBut(&["z4", "z4t", "xtask"])),
    ("z4", AnythingBut(&["z4-sim", "z4t", "xtask"])),
    ("z4t", AnythingBut(&["z4-sim", "z4-host", "z4", "xtask"])),
    // The crash run drives a real server from outside, so it sees the wire and nothing behind it.
    ("xtask", Only(&["z4-types", "z4-env", "z4-proto", "z4-client"])),
];

/// Crates from outside that have one home, also in tests.
const ONE_HOME: &[(&str, &str)] = &[("raft", "z4-consensus"), ("redb", "z4-store")];

/// Crates in which nothing awaits, so that the simulator can run them in one thread.
const WITHOUT_TOKIO: &[&str] = &[
    "z4-types",
    "z4-env",
    "z4-consensus",
    "z4-wal",
    "z4-store",
    "z4-tasks",
    "z4-registry",
    "z4-cron",
    "z4-filter",
    "z4-multiraft",
];

/// Checks every crate of the workspace.
///
/// # Errors
/// One line for each dependency against the arrows.
pub(crate) fn check(crates: &[Crate]) -> Result<()> {
    let names: Vec<&str> = crates.iter().map(|each| each.name.as_str()).collect();
    let wrong: Vec<String> = crates.iter().flat_map(|each| violations(each, &names)).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "dependencies against the arrows (docs/ARCHITECTURE.md, xtask/src/arrows.rs):\n  {}\n\
         Move the code to the crate that may see both, or pass the value in from outside.",
        wrong.join("\n  ")
    )
}

fn violations(each: &Crate, workspace: &[&str]) -> Vec<String> {
    let name = each.name.as_str();
    let Some((_, sees)) = ARROWS.iter().find(|(row, _)| *row == name) else {
        return vec![format!("{name} has no row in xtask/src/arrows.rs: say what it may see")];
    };
    let mut wrong = Vec::new();
    for (dependency, purpose) in &each.dependencies {
        let dependency = dependency.as_str();
        let allowed = match sees {
            Only(list) => list.contains(&dependency),
            AnythingBut(list) => !list.contains(&dependency),
        };
        if workspace.contains(&dependency) && *purpose != Use::Test && !allowed {
            wrong.push(match sees {
                Only([]) => format!("{name} → {dependency}: {name} sees no other crate of z4"),
                Only(list) => format!("{name} → {dependency}: {name} sees only {}", list.join(", ")),
                AnythingBut(_) => format!("{name} → {dependency}: {name} must not see it"),
            });
        }
        if let Some((_, home)) = ONE_HOME.iter().find(|(crate_name, _)| *crate_name == dependency)
            && *home != name
        {
            wrong.push(format!("{name} → {dependency}: {dependency} is named in {home} and nowhere else"));
        }
        if dependency == "tokio" && *purpose != Use::Test && WITHOUT_TOKIO.contains(&name) {
            wrong.push(format!("{name} → tokio: nothing awaits in {name}, so that z4-sim can run it"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, dependencies: &[(&str, Use)]) -> Crate {
        let dependencies =
            dependencies.iter().map(|(name, purpose)| ((*name).to_owned(), *purpose)).collect();
        Crate { name: name.to_owned(), dependencies, binaries: Vec::new() }
    }

    fn complaint(subject: Crate) -> String {
        let names = ["z4-types", "z4-tasks", "z4-sim", "z4-host", "z4-env", "z4-consensus"];
        let mut crates: Vec<Crate> = names.iter().map(|name| with(name, &[])).collect();
        crates.retain(|other| other.name != subject.name);
        crates.push(subject);
        check(&crates).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_workspace_points_inward() {
        if let Err(error) = check(&crate::workspace::load().expect("cargo metadata works")) {
            panic!("{error}");
        }
    }

    #[test]
    fn an_arrow_outward_is_named_with_what_would_be_allowed() {
        let text = complaint(with("z4-consensus", &[("z4-types", Use::Normal), ("z4-tasks", Use::Normal)]));
        assert!(text.contains("z4-consensus → z4-tasks: z4-consensus sees only z4-types"), "{text}");
        let text = complaint(with("z4-types", &[("z4-env", Use::Build)]));
        assert!(text.contains("z4-types sees no other crate"), "{text}");
    }

    #[test]
    fn nobody_sees_the_simulator_and_the_tool_does_not_see_the_host() {
        assert!(complaint(with("z4", &[("z4-sim", Use::Normal)])).contains("z4 → z4-sim"));
        assert!(complaint(with("z4t", &[("z4-host", Use::Normal)])).contains("z4t → z4-host"));
        assert_eq!(complaint(with("z4-sim", &[("z4-host", Use::Normal), ("z4-tasks", Use::Normal)])), "");
    }

    #[test]
    fn engines_have_one_home_even_in_tests_and_pure_crates_do_not_await() {
        assert!(complaint(with("z4-host", &[("redb", Use::Test)])).contains("redb is named in z4-store"));
        assert!(
            complaint(with("z4-host", &[("raft", Use::Normal)])).contains("raft is named in z4-consensus")
        );
        assert!(complaint(with("z4-tasks", &[("tokio", Use::Normal)])).contains("nothing awaits"));
        assert_eq!(complaint(with("z4-tasks", &[("z4-env", Use::Test), ("tokio", Use::Test)])), "");
    }

    #[test]
    fn a_new_crate_needs_a_row() {
        assert!(complaint(with("z4-new", &[])).contains("z4-new has no row"));
    }
}
