//! systemd, or whoever else starts services and wants to hear how they are ([`sd_notify`]).
//!
//! [`sd_notify`]: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};

use tracing::debug;

/// Where to say how the agent is; nowhere if nobody asked for it.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names.
    #[must_use]
    pub fn from_environment() -> Self {
        let text = |name| env::var(name).ok();
        let watched = text("WATCHDOG_PID").is_none_or(|pid| pid == process::id().to_string());
        Self::new(
            env::var_os("NOTIFY_SOCKET").as_deref(),
            text("WATCHDOG_USEC").filter(|_| watched).as_deref(),
        )
    }

    fn new(socket: Option<&OsStr>, watchdog_usec: Option<&str>) -> Self {
        let socket = socket.and_then(|path| {
            open(path)
                .inspect_err(|error| debug!(%error, "cannot speak to the service manager"))
                .ok()
        });
        Self {
            watchdog: watchdog_usec
                .filter(|_| socket.is_some())
                .and_then(|usec| usec.parse().ok())
                .filter(|usec| *usec > 0)
                .map(Duration::from_micros),
            socket,
        }
    }

    /// The agent has started.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// It ends because it was told to.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// All of it does its work.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.say("WATCHDOG=1");
        }
    }

    /// How often that is to be said: twice as often as it is waited for, as is asked for.
    #[must_use]
    pub fn every(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    fn say(&self, what: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(what.as_bytes(), address) {
            debug!(%error, what, "the service manager does not listen");
        }
    }
}

fn open(path: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read is waited for by nobody.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn it_hears_of_the_start_the_end_and_each_sign_of_life() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listening = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::new(Some(path.as_os_str()), Some("3000000"));
        assert_eq!(manager.every(), Some(Duration::from_millis(1500)));
        manager.ready();
        manager.alive();
        manager.stopping();
        let heard = [(); 3].map(|()| heard(&listening));
        assert_eq!(heard, ["READY=1", "WATCHDOG=1", "STOPPING=1"]);
    }

    #[test]
    fn an_abstract_socket_is_one_too() {
        let name = format!("tcpstate-test-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listening = UnixDatagram::bind_addr(&address).unwrap();
        let path = format!("@{name}");
        // Nobody waits for signs of life here.
        let manager = ServiceManager::new(Some(OsStr::new(&path)), None);
        manager.alive();
        manager.ready();
        assert_eq!(heard(&listening), "READY=1");
    }

    #[test]
    fn one_that_does_not_read_stops_nobody_and_none_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _silent = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::new(Some(path.as_os_str()), Some("1000"));
        for _ in 0..10_000 {
            manager.alive();
        }
        let nobody = ServiceManager::new(None, Some("1000"));
        nobody.ready();
        assert_eq!(nobody.every(), None);
    }
}
