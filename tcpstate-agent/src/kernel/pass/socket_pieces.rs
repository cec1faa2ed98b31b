//! Which parts of each kind of socket a pass copies.

use tcpstate_common::{
    TcpState,
    pass::{MAX_NET_PIECES, MAX_PIECES, Wanted},
};

use super::{
    super::layout::{Field, Layout},
    tables::{Contents, Details, OpenError},
};
use crate::decode::{object::pieces, wanted_of_namespace};

/// Where the pieces of each kind of socket begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketPieces {
    close_wait: [u32; MAX_PIECES],
    listener: [u32; MAX_PIECES],
    half_open: [u32; MAX_PIECES],
    timewait: [u32; MAX_PIECES],
    unanswered: [u32; MAX_PIECES],
    pub(super) net: [u32; MAX_NET_PIECES],
}

impl SocketPieces {
    pub(super) fn of(layout: &Layout) -> Result<Self, OpenError> {
        let (sock, request, timewait) = (&layout.sock, &layout.request, &layout.timewait);
        let find = |what, fields: &[Field]| pieces(fields).ok_or(OpenError::Pieces(what));
        let mut net = [0; MAX_NET_PIECES];
        let of_net = crate::decode::object::begins(&wanted_of_namespace(&layout.net), 0);
        net.get_mut(..of_net.len())
            .ok_or(OpenError::Pieces("struct net"))?
            .copy_from_slice(&of_net);
        let mut of_close_wait = vec![
            sock.socket,
            sock.received_next,
            sock.copied,
            sock.written,
            sock.unacknowledged,
            sock.last_ack,
        ];
        of_close_wait.extend(sock.cgroup);
        let mut of_listener = vec![
            sock.accept_queue,
            sock.accept_limit,
            sock.drops,
            sock.half_open,
            sock.defer_accept,
        ];
        of_listener.extend(sock.port_asked_for.map(|bit| bit.byte));
        let answers = [
            sock.retransmits,
            sock.probes,
            sock.written,
            sock.unacknowledged,
            sock.last_ack,
            sock.first_sent,
            sock.socket,
        ];
        Ok(Self {
            close_wait: find("struct tcp_sock", &of_close_wait)?,
            listener: find("struct sock", &of_listener)?,
            half_open: find(
                "struct request_sock",
                &[request.retransmits, request.acked.byte, request.sent],
            )?,
            timewait: find(
                "struct inet_timewait_sock",
                &[timewait.substate, timewait.recent],
            )?,
            unanswered: find("struct tcp_sock", &answers)?,
            net,
        })
    }

    pub(super) fn wanted(&self, what: Contents, details: Details, state: u32) -> Wanted {
        let mut wanted = Wanted {
            state,
            ..Wanted::default()
        };
        let bit = |state: TcpState| 1_u32 << state as u32;
        match what {
            Contents::Sockets => {
                wanted.states = [
                    bit(TcpState::CloseWait),
                    bit(TcpState::NewSynRecv),
                    bit(TcpState::TimeWait),
                    0,
                ];
                wanted.pieces = [
                    self.close_wait,
                    self.half_open,
                    self.timewait,
                    self.unanswered,
                ];
                if details == Details::WithUnanswered {
                    wanted.states[3] = bit(TcpState::Established)
                        | bit(TcpState::SynSent)
                        | bit(TcpState::FinWait2)
                        | bit(TcpState::FinWait1)
                        | bit(TcpState::Closing)
                        | bit(TcpState::LastAck);
                }
            }
            Contents::Listeners => {
                wanted.states[0] = bit(TcpState::Listen);
                wanted.pieces[0] = self.listener;
            }
            Contents::Ports => {}
        }
        wanted
    }
}
