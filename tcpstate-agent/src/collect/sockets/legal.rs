//! The transitions that the kernel can make.

use tcpstate_common::TcpState::{
    self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv,
    SynSent,
};

/// Every pair of states that some path of the kernel's TCP passes to `inet_sock_set_state`.
///
/// TIME_WAIT is in none of them: a minisocket takes over and the full socket goes to CLOSE.
/// Read in `net/ipv4/tcp.c`, `tcp_input.c`, `tcp_ipv4.c` and `inet_connection_sock.c` of 6.12.
pub const LEGAL_TRANSITIONS: [(TcpState, TcpState); 22] = [
    (Close, Listen),          // inet_csk_listen_start
    (Close, SynSent),         // tcp_v4_connect, tcp_v6_connect
    (Listen, SynRecv),        // inet_csk_clone_lock: the child, not the listener
    (Listen, Close),          // tcp_close, tcp_disconnect
    (SynSent, SynRecv),       // simultaneous open: tcp_rcv_synsent_state_process
    (SynSent, Established),   // tcp_finish_connect
    (SynSent, Close),         // refused, timed out, closed while connecting
    (SynRecv, Established),   // the third ACK: tcp_rcv_state_process
    (SynRecv, FinWait1),      // close before the third ACK (fast open): tcp_close_state
    (SynRecv, CloseWait),     // a fast-open SYN that carries FIN: tcp_fin
    (SynRecv, Close),         // tcp_reset, tcp_done
    (Established, FinWait1),  // tcp_close_state
    (Established, CloseWait), // tcp_fin
    (Established, Close),     // reset, time-out, abort
    (FinWait1, FinWait2),     // our FIN acknowledged: tcp_rcv_state_process
    (FinWait1, Closing),      // tcp_fin
    (FinWait1, Close),        // reset, time-out
    (FinWait2, Close),        // replaced by a minisocket: tcp_time_wait
    (CloseWait, LastAck),     // tcp_close_state
    (CloseWait, Close),       // reset, time-out, abort
    (Closing, Close),         // replaced by a minisocket: tcp_time_wait
    (LastAck, Close),         // our FIN acknowledged: tcp_rcv_state_process
];
