//! What a worker does: makes connections over the loopback to itself, and keeps or closes them.
//!
//! It says on its standard output how far it is, takes orders from its standard input, and ends
//! when that is closed: so it does not outlive whoever started it.

use std::{
    fmt,
    io::{self, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::process;

/// So many connections go to each address: with all of them in TIME_WAIT, local ports are left.
const PER_ADDRESS: u64 = 10_000;
/// Connections that are closed at once go round so many addresses.
const ADDRESSES: u64 = 200;
/// How often to say how far it is, in connections.
const STRIDE: u32 = 500;

/// How a worker begins.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Connections to hold
    #[arg(long, default_value_t = 0)]
    pub(crate) connections: u32,
    /// Close the connecting side of each for sending
    #[arg(long)]
    pub(crate) half_closed: bool,
    /// Listening sockets to hold beside
    #[arg(long, default_value_t = 0)]
    pub(crate) listeners: u32,
    /// Second byte of its addresses
    #[arg(long, default_value_t = 0)]
    pub(crate) number: u8,
    /// Bring the loopback up first
    #[arg(long)]
    pub(crate) loopback: bool,
}

impl Settings {
    /// Adds them to a command line.
    pub(crate) fn describe(&self, command: &mut Command) {
        let Self {
            connections,
            half_closed,
            listeners,
            number,
            loopback,
        } = self;
        command.args([
            format!("--connections={connections}"),
            format!("--listeners={listeners}"),
            format!("--number={number}"),
        ]);
        command.args(half_closed.then_some("--half-closed"));
        command.args(loopback.then_some("--loopback"));
    }
}

/// What a worker says, a line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It has made so many connections.
    Made(u64),
    /// All that it was to begin with is there.
    Ready,
    /// It has carried out an order, in that time.
    Done(Duration),
}

impl Report {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let report = match (words.next()?, words.next()) {
            ("made", Some(number)) => Self::Made(number.parse().ok()?),
            ("ready", None) => Self::Ready,
            ("done", Some(nanoseconds)) => {
                Self::Done(Duration::from_nanos(nanoseconds.parse().ok()?))
            }
            _ => return None,
        };
        words.next().is_none().then_some(report)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(number) => write!(formatter, "made {number}"),
            Self::Ready => formatter.write_str("ready"),
            Self::Done(took) => write!(formatter, "done {}", took.as_nanos()),
        }
    }
}

fn say(report: Report) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{report}")
        .and_then(|()| out.flush())
        .context("nobody listens to this worker")
}

/// An order, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Hold so many connections more.
    Hold(u32),
    /// Make and close so many, one after the other, as programs do.
    Close(u64),
    /// The same, but the connecting side resets each.
    Reset(u64),
}

impl Order {
    fn parse(line: &str) -> Option<Self> {
        let (word, number) = line.split_once(' ')?;
        Some(match word {
            "hold" => Self::Hold(number.parse().ok()?),
            "close" => Self::Close(number.parse().ok()?),
            "reset" => Self::Reset(number.parse().ok()?),
            _ => return None,
        })
    }
}

/// The hidden command `bench-worker`.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    if settings.loopback {
        process::output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    }
    let mut worker = Held::new(settings)?;
    worker.hold(settings.connections)?;
    say(Report::Ready)?;
    for line in io::stdin().lines() {
        let line = line.context("cannot read orders")?;
        let order = Order::parse(&line).with_context(|| format!("{line:?} is no order"))?;
        let start = Instant::now();
        match order {
            Order::Hold(connections) => worker.hold(connections)?,
            Order::Close(count) => worker.churn(count, End::Close)?,
            Order::Reset(count) => worker.churn(count, End::Reset)?,
        }
        say(Report::Done(start.elapsed()))?;
    }
    Ok(())
}

/// How the connecting side ends a connection.
#[derive(Clone, Copy)]
enum End {
    Close,
    Reset,
}

/// The sockets of a worker.
struct Held {
    listener: TcpListener,
    number: u8,
    half_closed: bool,
    /// How many connections were made and closed; the next one's address follows from it.
    churned: u64,
    connections: Vec<(TcpStream, TcpStream)>,
    listeners: Vec<Socket>,
}

impl Held {
    fn new(settings: &Settings) -> Result<Self> {
        let address = address(settings.number, 0);
        // With one worker on all addresses: connections that are closed at once go round them.
        let any = (settings.number == 0).then_some(Ipv4Addr::UNSPECIFIED);
        let listener = TcpListener::bind((any.unwrap_or(address), 0))
            .context("cannot listen on the loopback")?;
        let mut held = Self {
            listener,
            number: settings.number,
            half_closed: settings.half_closed,
            churned: 0,
            connections: Vec::new(),
            listeners: Vec::new(),
        };
        for _ in 0..settings.listeners {
            held.listeners.push(listen(address)?);
        }
        Ok(held)
    }

    fn port(&self) -> Result<u16> {
        let address = self.listener.local_addr();
        Ok(address.context("cannot tell the listener's port")?.port())
    }

    fn hold(&mut self, connections: u32) -> Result<()> {
        let target = SocketAddrV4::new(address(self.number, 0), self.port()?);
        for made in 1..=connections {
            let client = TcpStream::connect(target)
                .with_context(|| format!("cannot make connection {made} of {connections}"))?;
            let (server, _) = self.listener.accept().context("cannot accept")?;
            if self.half_closed {
                client
                    .shutdown(Shutdown::Write)
                    .context("cannot half close")?;
            }
            self.connections.push((client, server));
            if made % STRIDE == 0 || made == connections {
                say(Report::Made(self.connections.len() as u64))?;
            }
        }
        Ok(())
    }

    fn churn(&mut self, count: u64, end: End) -> Result<()> {
        let port = self.port()?;
        if self.number != 0 {
            bail!("only worker 0 listens on all addresses");
        }
        for _ in 0..count {
            let target: SockAddr = SocketAddrV4::new(churned_address(self.churned), port).into();
            self.churned += 1;
            let client =
                Socket::new(Domain::IPV4, Type::STREAM, None).context("cannot make a socket")?;
            client
                .connect(&target)
                .with_context(|| format!("cannot make connection {}", self.churned))?;
            let (server, _) = self.listener.accept().context("cannot accept")?;
            if matches!(end, End::Reset) {
                client
                    .set_linger(Some(Duration::ZERO))
                    .context("cannot set SO_LINGER")?;
            }
            drop(client);
            drop(server);
        }
        Ok(())
    }
}

fn listen(address: Ipv4Addr) -> Result<Socket> {
    let listen = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddrV4::new(address, 0).into())?;
        socket.listen(16)?;
        Ok(socket)
    };
    listen().context("cannot listen on one more port")
}

/// An address of the loopback for each worker; addresses of several do not meet.
fn address(number: u8, third: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, number, third, 1)
}

/// The address that the connection with this number goes to. Each is used up to half of its local
/// ports before it is the next one's turn, so that no port is needed twice within a minute.
pub(crate) fn churned_address(number: u64) -> Ipv4Addr {
    let place = number / PER_ADDRESS % ADDRESSES;
    address(0, u8::try_from(place).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_being_written() {
        for report in [
            Report::Made(9_500),
            Report::Ready,
            Report::Done(Duration::from_nanos(1_234_567_890)),
        ] {
            assert_eq!(Report::parse(&report.to_string()), Some(report));
        }
    }

    #[test]
    fn what_is_no_report_or_order_is_refused() {
        for line in ["", "made", "made x", "ready 1", "done", "done 1 2", "error"] {
            assert_eq!(Report::parse(line), None, "{line}");
        }
        for line in ["", "close", "close x", "hold -1", "reset 1 2", "sleep 1"] {
            assert_eq!(Order::parse(line), None, "{line}");
        }
        assert_eq!(Order::parse("reset 10"), Some(Order::Reset(10)));
    }

    #[test]
    fn closed_connections_go_round_many_addresses() {
        let addresses: std::collections::BTreeSet<_> =
            (0..ADDRESSES * PER_ADDRESS).map(churned_address).collect();
        assert_eq!(addresses.len() as u64, ADDRESSES);
        assert_eq!(
            churned_address(0),
            churned_address(ADDRESSES * PER_ADDRESS),
            "after the last it begins again"
        );
    }

    #[test]
    fn a_worker_holds_closes_and_resets() -> Result<()> {
        let mut worker = Held::new(&Settings {
            listeners: 3,
            ..Settings::default()
        })?;
        worker.churn(3, End::Close)?;
        worker.churn(3, End::Reset)?;
        let ports: std::collections::BTreeSet<_> = worker
            .listeners
            .iter()
            .filter_map(|socket| socket.local_addr().ok()?.as_socket_ipv4())
            .map(|address| address.port())
            .collect();
        assert_eq!((ports.len(), worker.churned), (3, 6));
        Ok(())
    }
}
