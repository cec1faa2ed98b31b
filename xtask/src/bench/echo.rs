//! A server that echoes, as a process that `where` can watch, and its client.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::running::{Running, bound};

/// The hidden command of xtask that is the server.
pub(crate) const COMMAND: &str = "bench-echo";

const REQUEST: [u8; 32] = [b'x'; 32];
/// Requests between two looks at the clock.
const TOGETHER: u32 = 100;

/// `cargo xtask bench-echo`: serves until its input is closed.
pub(crate) fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let port = listener.local_addr()?.port();
    println!("{port}");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink()).context("cannot wait for the end")?;
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 256];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

/// The server, as it runs.
pub(crate) struct Server {
    process: Running,
    port: u16,
}

/// What a load has cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: f64,
    /// CPU time of the server for a request, seconds.
    pub(crate) cpu: f64,
}

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let xtask = env::current_exe().context("cannot find this program")?;
        let xtask = xtask.to_str().context("this program's path is no text")?;
        let mut process = Running::start(
            "the echo server",
            bound(xtask)
                .arg(COMMAND)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        )?;
        let stdout = process.child().stdout.take();
        let mut line = String::new();
        BufReader::new(stdout.context("no output")?).read_line(&mut line)?;
        let port = line.trim().parse().context("the echo server has no port")?;
        Ok(Self { process, port })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Requests one after the other, on one connection or on one each.
    pub(crate) fn load(&self, duration: Duration, is_kept: bool) -> Result<Load> {
        let (begun, before) = (Instant::now(), cpu(self.pid())?);
        let mut requests = 0_u32;
        let mut kept = if is_kept { Some(self.connect()?) } else { None };
        while begun.elapsed() < duration {
            if let Some(stream) = &mut kept {
                for _ in 0..TOGETHER {
                    ask(stream)?;
                }
                requests += TOGETHER;
            } else {
                let mut stream = self.connect()?;
                ask(&mut stream)?;
                stream.shutdown(Shutdown::Write)?;
                // Until the server has closed too.
                while stream.read(&mut [0; 8])? > 0 {}
                requests += 1;
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        // The server's last thread may have a little left to do.
        thread::sleep(Duration::from_millis(20));
        let requests = f64::from(requests);
        Ok(Load {
            rate: requests / seconds,
            cpu: (cpu(self.pid())? - before) / requests,
        })
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&REQUEST)?;
    let mut answer = [0; REQUEST.len()];
    stream.read_exact(&mut answer)?;
    Ok(())
}

/// CPU time of a process, seconds.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind = stat.rsplit(") ").next().unwrap_or_default();
    let mut fields = behind.split(' ').skip(11);
    let mut ticks = || -> Result<f64> {
        let field = fields.next().context("a field is missing")?;
        Ok(f64::from(field.parse::<u32>()?))
    };
    let ticks = ticks()? + ticks()?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
    Ok(ticks / f64::from(per_second))
}
