//! The flags of the settings, made from the table.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command};

use super::keys::KEYS;
use super::value::Kind;

/// The settings given as flags, as text: they are understood where all sources are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags(pub(crate) BTreeMap<String, String>);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let settings = KEYS.iter().map(|key| {
            let mut help = format!("{} [env: {}]", key.help, key.variable());
            if let Some(default) = (key.default)() {
                help.push_str(&format!(" [default: {default}]"));
            }
            // clap keeps names for the life of the program, and so does this table.
            let long: &'static str = key.name.replace('_', "-").leak();
            let arg =
                Arg::new(key.name).long(long).value_name(key.value_name).help(help).help_heading("Settings");
            if matches!(key.kind, Kind::Bool) {
                // `--bootstrap-cluster` alone says yes.
                arg.num_args(0..=1).require_equals(true).default_missing_value("true")
            } else {
                arg
            }
        });
        command.args(settings)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = KEYS.iter().filter_map(|key| {
            let value = matches.get_one::<String>(key.name)?;
            Some((key.name.to_owned(), value.clone()))
        });
        self.0.extend(given);
        Ok(())
    }
}
