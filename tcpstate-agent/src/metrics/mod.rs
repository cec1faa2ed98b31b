//! The metrics: what they are called and mean ([`catalogue`]), and filling them from a reading.

pub mod catalogue;
mod close_wait;
mod collector;
mod families;
mod family;

pub use collector::{register, render};
