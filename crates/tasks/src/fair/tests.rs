//! Tests of the groups of a queue: claims one by one, a naive model, and what a choice costs.

mod claims;
mod cost;
mod model;
mod world;
