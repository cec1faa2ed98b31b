//! A TCP peer that does what it is told: packets by hand over a TUN device.
//!
//! With a kernel on both sides a third ACK cannot be lost on purpose, nor a FIN left
//! unacknowledged. This peer answers nothing by itself.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::harness::{Netns, on_this_cpu};

pub(crate) const KERNEL_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(crate) const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub(crate) const KERNEL_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);

/// The far end of a TUN device.
pub(crate) struct Peer {
    device: File,
}

/// A TCP segment as far as the tests care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: Option<u32>,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    /// Bytes of data.
    pub(crate) data: usize,
}

/// One connection from the peer's side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    kernel: SocketAddr,
    peer: SocketAddr,
    next: u32,
    expected: u32,
}

/// `struct ifreq` as TUNSETIFF wants it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: libc::c_short,
    padding: [u8; 22],
}

impl Peer {
    /// Makes the device `tun0` in `namespace`, with the kernel's addresses on it.
    pub(crate) fn new(namespace: &Netns) -> Self {
        let device = namespace.enter(|| {
            let device = OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .expect("cannot open /dev/net/tun");
            let mut request = InterfaceRequest {
                name: *b"tun0\0\0\0\0\0\0\0\0\0\0\0\0",
                flags: (libc::IFF_TUN | libc::IFF_NO_PI).try_into().unwrap(),
                padding: [0; 22],
            };
            // SAFETY: the descriptor is open and the request has the size of `struct ifreq`.
            let made = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) };
            assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
            device
        });
        let (v4, v6) = (format!("{KERNEL_V4}/24"), format!("{KERNEL_V6}/64"));
        namespace.command("ip", &["address", "add", &v4, "dev", "tun0"]);
        namespace.command("ip", &["address", "add", &v6, "dev", "tun0", "nodad"]);
        namespace.command("ip", &["link", "set", "tun0", "up"]);
        Self { device }
    }

    /// Connects to a listener of the kernel as far as the SYN: the SYN-ACK that comes back is
    /// never acknowledged.
    pub(crate) fn half_open(&mut self, peer: SocketAddr, kernel: SocketAddr) -> Connection {
        let mut connection = Connection {
            kernel,
            peer,
            next: 1000,
            expected: 0,
        };
        let syn = Segment {
            syn: true,
            acknowledgment: None,
            ..connection.segment()
        };
        self.send(&syn);
        connection.next += 1;
        let syn_ack = self.receive(&connection, |segment| {
            segment.syn && segment.acknowledgment == Some(connection.next)
        });
        connection.expected = syn_ack.sequence.wrapping_add(1);
        connection
    }

    /// Connects to a listener of the kernel.
    pub(crate) fn connect(&mut self, peer: SocketAddr, kernel: SocketAddr) -> Connection {
        let connection = self.half_open(peer, kernel);
        self.acknowledge(&connection);
        connection
    }

    /// Acknowledges what has come; of a connection that is half open, the SYN-ACK.
    pub(crate) fn acknowledge(&mut self, connection: &Connection) {
        self.send(&connection.segment());
    }

    /// Sends the SYN of a connection again.
    pub(crate) fn send_syn_again(&mut self, connection: &Connection) {
        self.send(&Segment {
            syn: true,
            acknowledgment: None,
            sequence: connection.next.wrapping_sub(1),
            ..connection.segment()
        });
    }

    /// Sends the SYN of each peer to a listener of the kernel. What comes back is dropped.
    pub(crate) fn flood(
        &mut self,
        peers: impl IntoIterator<Item = SocketAddr>,
        kernel: SocketAddr,
    ) {
        for (number, source) in peers.into_iter().enumerate() {
            self.send(&Segment {
                source,
                destination: kernel,
                sequence: 1000,
                acknowledgment: None,
                syn: true,
                fin: false,
                rst: false,
                data: 0,
            });
            if number % 64 == 0 {
                self.collect(Duration::ZERO, |_| false);
            }
        }
    }

    /// Accepts the connection that the kernel is opening to `peer`.
    pub(crate) fn accept(&mut self, peer: SocketAddr, kernel: SocketAddr) -> Connection {
        self.accept_at(1, peer, kernel)
    }

    /// The same, but answers only the SYN with this number: those before it are lost.
    pub(crate) fn accept_at(
        &mut self,
        number: usize,
        peer: SocketAddr,
        kernel: SocketAddr,
    ) -> Connection {
        let mut connection = Connection {
            kernel,
            peer,
            next: 5000,
            expected: 0,
        };
        for _ in 1..number {
            self.receive(&connection, |segment| segment.syn);
        }
        let syn = self.receive(&connection, |segment| segment.syn);
        connection.expected = syn.sequence.wrapping_add(1);
        self.send(&Segment {
            syn: true,
            ..connection.segment()
        });
        connection.next += 1;
        self.receive(&connection, |segment| {
            segment.acknowledgment == Some(connection.next)
        });
        connection
    }

    /// Sends FIN without acknowledging anything new.
    pub(crate) fn close(&mut self, connection: &mut Connection) {
        self.send(&Segment {
            fin: true,
            ..connection.segment()
        });
        connection.next += 1;
    }

    /// Waits for the kernel's FIN and leaves it unacknowledged.
    pub(crate) fn await_fin(&mut self, connection: &Connection) {
        self.receive(connection, |segment| segment.fin);
    }

    /// Acknowledges the kernel's FIN, which must have come.
    pub(crate) fn acknowledge_fin(&mut self, connection: &mut Connection) {
        connection.expected = connection.expected.wrapping_add(1);
        self.send(&connection.segment());
    }

    /// Acknowledges the kernel's FIN, which must have come, with a FIN in the same segment.
    pub(crate) fn close_acknowledging(&mut self, connection: &mut Connection) {
        connection.expected = connection.expected.wrapping_add(1);
        self.close(connection);
    }

    /// Sends data without acknowledging anything new.
    pub(crate) fn send_data(&mut self, connection: &mut Connection) {
        self.send(&Segment {
            data: 1,
            ..connection.segment()
        });
        connection.next += 1;
    }

    /// Sends data with which it acknowledges the kernel's FIN, which must have come.
    pub(crate) fn send_data_acknowledging_fin(&mut self, connection: &mut Connection) {
        connection.expected = connection.expected.wrapping_add(1);
        self.send_data(connection);
    }

    /// Sends a SYN that answers the kernel's without acknowledging it, as if both had been on the
    /// way at once.
    pub(crate) fn open_at_once(&mut self, peer: SocketAddr, kernel: SocketAddr) -> Connection {
        let mut connection = Connection {
            kernel,
            peer,
            next: 5000,
            expected: 0,
        };
        let syn = self.receive(&connection, |segment| segment.syn);
        connection.expected = syn.sequence.wrapping_add(1);
        self.send(&Segment {
            syn: true,
            acknowledgment: None,
            ..connection.segment()
        });
        connection.next += 1;
        self.receive(&connection, |segment| {
            segment.syn && segment.acknowledgment == Some(connection.next)
        });
        connection
    }

    /// Connects to a listener of the kernel with data in the SYN, as far as the SYN-ACK, which
    /// must acknowledge the data.
    pub(crate) fn half_open_fast(&mut self, peer: SocketAddr, kernel: SocketAddr) -> Connection {
        let mut connection = Connection {
            kernel,
            peer,
            next: 1000,
            expected: 0,
        };
        self.send(&Segment {
            syn: true,
            acknowledgment: None,
            data: 1,
            ..connection.segment()
        });
        connection.next += 2;
        let syn_ack = self.receive(&connection, |segment| {
            segment.syn && segment.acknowledgment == Some(connection.next)
        });
        connection.expected = syn_ack.sequence.wrapping_add(1);
        connection
    }

    /// Sends a reset.
    pub(crate) fn reset(&mut self, connection: &Connection) {
        self.send(&Segment {
            rst: true,
            ..connection.segment()
        });
    }

    /// Answers the SYN of a connection that the kernel is opening to `peer` with ICMP's destination
    /// unreachable, for the reason `code`. Over IPv4.
    pub(crate) fn answer_unreachable(&mut self, peer: SocketAddr, kernel: SocketAddr, code: u8) {
        let connection = Connection {
            kernel,
            peer,
            next: 0,
            expected: 0,
        };
        let syn = self.receive(&connection, |segment| segment.syn);
        self.unreachable(&syn, code);
    }

    /// Answers `segment`, which the kernel has sent, with ICMP's destination unreachable, for the
    /// reason `code`. Over IPv4.
    pub(crate) fn unreachable(&mut self, segment: &Segment, code: u8) {
        let (IpAddr::V4(kernel), IpAddr::V4(peer)) =
            (segment.source.ip(), segment.destination.ip())
        else {
            panic!("over IPv4 only");
        };
        // What ICMP sends back: the IP header, and of TCP's the ports and the sequence number.
        let mut answered = Vec::new();
        PacketBuilder::ipv4(kernel.octets(), peer.octets(), 64)
            .tcp(
                segment.source.port(),
                segment.destination.port(),
                segment.sequence,
                64_000,
            )
            .write(&mut answered, &[])
            .unwrap();
        let mut packet = Vec::new();
        PacketBuilder::ipv4(peer.octets(), kernel.octets(), 64)
            .icmpv4_raw(3, code, [0; 4])
            .write(&mut packet, &answered)
            .unwrap();
        self.device.write_all(&packet).unwrap();
    }

    pub(crate) fn send(&mut self, segment: &Segment) {
        let (source, destination) = (segment.source, segment.destination);
        let ip = match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                PacketBuilder::ipv4(from.octets(), to.octets(), 64)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketBuilder::ipv6(from.octets(), to.octets(), 64)
            }
            _ => panic!("addresses of two families"),
        };
        let mut tcp = ip.tcp(source.port(), destination.port(), segment.sequence, 64_000);
        if let Some(acknowledgment) = segment.acknowledgment {
            tcp = tcp.ack(acknowledgment);
        }
        if segment.syn {
            tcp = tcp.syn();
        }
        if segment.fin {
            tcp = tcp.fin();
        }
        if segment.rst {
            tcp = tcp.rst();
        }
        let mut packet = Vec::new();
        tcp.write(&mut packet, &vec![b'x'; segment.data]).unwrap();
        self.device.write_all(&packet).unwrap();
    }

    /// The next segment of `connection` that `is_wanted`; others are dropped.
    pub(crate) fn receive(
        &mut self,
        connection: &Connection,
        is_wanted: impl Fn(&Segment) -> bool,
    ) -> Segment {
        let deadline = Instant::now() + on_this_cpu(Duration::from_secs(15));
        loop {
            let segment = self
                .next(deadline)
                .unwrap_or_else(|| panic!("the kernel does not answer {connection:?}"));
            if connection.is_of(&segment) && is_wanted(&segment) {
                return segment;
            }
        }
    }

    /// The segments that come within this time and are wanted, each with the time at which it
    /// came; others are dropped.
    pub(crate) fn collect(
        &mut self,
        patience: Duration,
        is_wanted: impl Fn(&Segment) -> bool,
    ) -> Vec<(Instant, Segment)> {
        let deadline = Instant::now() + patience;
        let mut wanted = Vec::new();
        while let Some(segment) = self.next(deadline) {
            if is_wanted(&segment) {
                wanted.push((Instant::now(), segment));
            }
        }
        wanted
    }

    /// The next segment that comes before `deadline`, or is there already.
    fn next(&mut self, deadline: Instant) -> Option<Segment> {
        let mut packet = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap();
            let mut readable = [PollFd::new(&self.device, PollFlags::IN)];
            if poll(&mut readable, Some(&timeout)).unwrap() == 0 {
                return None;
            }
            let length = self.device.read(&mut packet).unwrap();
            if let Some(segment) = parse(&packet[..length]) {
                return Some(segment);
            }
        }
    }
}

impl Connection {
    /// Whether the kernel has sent it for this connection.
    pub(crate) fn is_of(&self, segment: &Segment) -> bool {
        segment.source == self.kernel && segment.destination == self.peer
    }

    /// An ACK of all that was taken note of.
    fn segment(&self) -> Segment {
        Segment {
            source: self.peer,
            destination: self.kernel,
            sequence: self.next,
            acknowledgment: Some(self.expected),
            syn: false,
            fin: false,
            rst: false,
            data: 0,
        }
    }
}

fn parse(packet: &[u8]) -> Option<Segment> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match sliced.net? {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        etherparse::NetSlice::Arp(_) => return None,
    };
    let TransportSlice::Tcp(tcp) = sliced.transport? else {
        return None;
    };
    Some(Segment {
        source: SocketAddr::new(source, tcp.source_port()),
        destination: SocketAddr::new(destination, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        data: tcp.payload().len(),
    })
}
