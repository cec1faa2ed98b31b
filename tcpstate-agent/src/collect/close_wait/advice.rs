//! What follows from a verdict, in plain words.

use std::fmt::Write as _;

use super::Verdict;

/// What to tell a person about a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What is wrong in the program, most likely: what follows on its name.
    pub fault: &'static str,
    /// What to look at in it.
    pub check: &'static str,
    /// Of what kind of program it is known.
    pub example: &'static str,
}

impl Verdict {
    /// What to do about it.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "it is one table")]
    pub const fn advice(self) -> Advice {
        match self {
            Self::Stopped => Advice {
                fault: "cannot run: it was stopped or frozen, or waits where no signal wakes it; \
                        nothing else about its sockets means anything before it goes on",
                check: "its state in /proc/PID/status: T or t is a signal or a debugger (kill -CONT), \
                        D mostly a disk or a network filesystem (/proc/PID/stack, the kernel log); \
                        of a container whether it is paused",
                example: "`kill -STOP`, `docker pause`, a hung NFS mount",
            },
            Self::DescriptorsExhausted => Advice {
                fault: "cannot accept: every descriptor that it may have is in use",
                check: "which descriptors it has (/proc/PID/fd; its other sockets in CLOSE_WAIT are \
                        mostly the leak), and its log for \"too many open files\"; prlimit --pid PID \
                        --nofile=N raises the limit without a restart",
                example: "an asyncio server that leaks until `accept()` fails with EMFILE",
            },
            Self::QueueOfDead => Advice {
                fault: "accepts later than its clients wait: what it comes to has been given up",
                check: "a shorter accept queue, so that clients are turned away at once and not served \
                        in vain; more workers; whether it works before it looks at whether the client \
                        is still there",
                example: "five requests a second served of thirty that come, with a backlog of 512",
            },
            Self::BlockedAccept => Advice {
                fault: "does not accept connections: its accept loop is stuck, or all its workers are \
                        busy",
                check: "what its threads or workers wait for, and its limit of workers or connections",
                example: "gunicorn or php-fpm with all workers in a database that does not answer",
            },
            Self::Inherited => Advice {
                fault: "has them by inheritance: the server that accepted them started it without \
                        closing them, and it knows nothing of them",
                check: "close-on-exec in the server: SOCK_CLOEXEC with accept4(), close_fds, \
                        O_CLOEXEC; ending this process ends the connections",
                example: "`sleep`, started by a server that passes its descriptors on",
            },
            Self::Draining => Advice {
                fault: "has stopped listening and waits for connections that their peers have closed: \
                        a shutdown that does not come to its end",
                check: "whether its shutdown has a time limit, and what still holds those connections; \
                        it can be ended: no client is left on them",
                example: "nginx `worker process is shutting down`, haproxy after a reload",
            },
            Self::SendBlocked => Advice {
                fault: "is sending to peers that have closed their side and do not acknowledge: slow or \
                        vanished peers, or such as half-close and stop reading",
                check: "whether it has a timeout for sending (TCP_USER_TIMEOUT, the server's write \
                        timeout), and whether the peers listed still read; ss -K ends single \
                        connections",
                example: "downloads by clients that stop reading, a thread blocked in `send()` each",
            },
            Self::HalfClose => Advice {
                fault: "still answers peers that have closed their side only: a half-close in use",
                check: "nothing, as long as it goes on; whether it ends after the last answer",
                example: "`nc -N`, `rsh`, a client that says shutdown(SHUT_WR) after its request",
            },
            Self::ProxyWaits => Advice {
                fault: "is a proxy and waits for the other side of these connections, which has not \
                        closed",
                check: "its timeouts for half-closed connections (haproxy: timeout client-fin, timeout \
                        server-fin; nginx: proxy_timeout), and why the other side stays open",
                example: "haproxy without `timeout client-fin`",
            },
            Self::InService => Advice {
                fault: "is at work for clients that have gone, and will notice when it reads or writes \
                        next",
                check: "what the request waits for (a database, a lock, another service), and whether it \
                        has a time limit; whether the server can tell that the client is gone \
                        (PostgreSQL: client_connection_check_interval)",
                example: "a backend of PostgreSQL in a long query, a sync worker of gunicorn",
            },
            Self::IdlePool => Advice {
                fault: "keeps idle connections that their servers have closed, a goodbye perhaps \
                        included: a connection pool without health checks, or with an idle timeout \
                        longer than the server's",
                check: "the idle timeout and maximum lifetime of its connection pool; they must be \
                        shorter than the server's. Few and not growing, they do no harm but one failed \
                        request each",
                example: "python-requests, JDBC and database pools after a quiet hour",
            },
            Self::UnreadResponse => Advice {
                fault: "does not read responses to their end, nor close them: their connections are lost \
                        to it",
                check: "every place where a response is received: that its body is closed or read on all \
                        ways out, errors and redirects included",
                example: "Go without `resp.Body.Close()`, Java without `response.close()`",
            },
            Self::StuckConsumer => Advice {
                fault: "has stopped reading: its consumer is stuck, blocked elsewhere or too slow, or it \
                        has forgotten the connections",
                check: "what the threads that read wait for (locks, a database, another service), queues \
                        that are full, reading that was paused and never resumed, and whether every \
                        connection is watched for reading or has a timeout",
                example: "a subscriber whose handler hangs, a pool of threads that wait for a lock",
            },
            Self::Leak => Advice {
                fault: "leaks descriptors: there is nothing more to read, and it does not close",
                check: "every way out of the code that reads from the connection: errors, returns and \
                        exceptions without close()",
                example: "a handler that returns on end of file and keeps the socket in a list",
            },
            Self::FinWait2Held => Advice {
                fault: "has closed its side and waits for peers that do not close theirs; no timer of the \
                        kernel ends that while a process holds the sockets",
                check: "the peers, which have them in CLOSE_WAIT; whether shutdown(SHUT_WR) is followed \
                        by a read with a timeout, and then by close()",
                example: "lingering close without a time limit, a proxy's half-close",
            },
            Self::Connecting => Advice {
                fault: "waits for connections that nobody answers",
                check: "the address, and what is between (routes, firewalls that drop); a full accept \
                        queue there; a timeout for connecting, which is some two minutes without one \
                        (net.ipv4.tcp_syn_retries)",
                example: "connect() to a host that is down, or behind a firewall that drops",
            },
            Self::Other => Advice {
                fault: "keeps sockets for a reason that they do not show",
                check: "who made them, and what was passed on to whom",
                example: "sockets on their way between processes (SCM_RIGHTS), io_uring, the kernel's own",
            },
        }
    }
}

/// The table of all verdicts, for docs/diagnosis.md.
#[must_use]
pub fn reference() -> String {
    let mut table = String::from(
        "| verdict | what the report says of the process | what to check | for example |\n\
         | --- | --- | --- | --- |\n",
    );
    for verdict in Verdict::ALL {
        let Advice {
            fault,
            check,
            example,
        } = verdict.advice();
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| `{}` | {fault} | {check} | {example} |",
            verdict.name()
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_verdicts_have_the_same_advice_and_none_breaks_the_table() {
        let texts: BTreeSet<_> = Verdict::ALL
            .iter()
            .map(|verdict| (verdict.advice().fault, verdict.advice().check))
            .collect();
        assert_eq!(texts.len(), Verdict::ALL.len());
        for row in reference().lines() {
            assert_eq!(row.matches('|').count(), 5, "{row}");
        }
    }
}
