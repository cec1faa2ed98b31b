//! The HTTP server, its web configuration file and the control socket, over real sockets and with
//! curl and openssl as clients. What is served is made up, so that none of it takes root.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod answers;
mod certificates;
mod client;
mod control;
mod hostile;
mod logins;
mod node_exporter;
mod reload;
mod scrapes;
mod server;
mod sockets;
mod table;
