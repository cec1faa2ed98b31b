//! The metrics: what they are called and mean ([`catalogue`]), and filling them from a reading.

pub mod catalogue;
mod collector;
mod families;

pub use collector::{register, render};
