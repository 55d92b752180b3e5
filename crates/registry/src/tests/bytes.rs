//! Values survive their bytes; no other bytes are read, and none panic.

use proptest::prelude::*;

use super::{command, registry};
use crate::{Command, Registry};

proptest! {
    #[test]
    fn a_command_survives_its_bytes_and_cut_or_longer_ones_are_refused(command in command()) {
        let mut bytes = command.encode();
        prop_assert_eq!(Command::decode(&bytes), Ok(command));
        for cut in 0..bytes.len() {
            prop_assert!(Command::decode(&bytes[..cut]).is_err());
        }
        bytes.push(0);
        prop_assert!(Command::decode(&bytes).is_err());
    }

    #[test]
    fn a_registry_survives_its_bytes_and_cut_or_longer_ones_are_refused(
        commands in proptest::collection::vec(command(), 0..20),
    ) {
        let mut registry = registry(3);
        for command in &commands {
            let _ = registry.apply(command);
        }
        let mut bytes = registry.encode();
        prop_assert_eq!(Registry::decode(&bytes), Ok(registry));
        for cut in 0..bytes.len() {
            prop_assert!(Registry::decode(&bytes[..cut]).is_err());
        }
        bytes.push(0);
        prop_assert!(Registry::decode(&bytes).is_err());
    }

    #[test]
    fn a_value_has_one_encoding(
        commands in proptest::collection::vec(command(), 0..10),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut registry = registry(3);
        for command in &commands {
            let _ = registry.apply(command);
            let mut bytes = command.encode();
            let len = bytes.len();
            bytes[at.index(len)] = to;
            if let Ok(other) = Command::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }
        let mut bytes = registry.encode();
        let len = bytes.len();
        bytes[at.index(len)] = to;
        if let Ok(other) = Registry::decode(&bytes) {
            // What stands there may be impossible: that is for the check to say, without a panic.
            let _ = other.check();
            if other.hosts.windows(2).all(|pair| pair[0].id < pair[1].id) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let versioned: Vec<u8> = [1].iter().chain(&bytes).copied().collect();
        for bytes in [&bytes, &versioned] {
            let _ = Command::decode(bytes);
            let _ = Registry::decode(bytes);
        }
    }
}
