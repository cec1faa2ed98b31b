//! What attacks the agent, and what happens to it: it shows no false zero, does not hang, and takes
//! no more than its share.

mod connections;
mod log;
mod signals;
mod stuck;
