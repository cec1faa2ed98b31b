//! A whole HTTP server, and clients that send it anything.
#![no_main]

use std::{
    error::Error,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::{
    engine::Unwell,
    serve::{
        self, HttpReading, Limits, Subject, WebSettings,
        control::{Answer, Question},
    },
};

/// Whoever has sent all of it is answered, or hears that there is no answer, by then.
const ANSWERED: Duration = Duration::from_secs(8);

struct Page;

impl Subject for Page {
    fn metrics(&self, _: &HttpReading) -> Result<String, Box<dyn Error + Send + Sync>> {
        Ok("metric 1\n".to_owned())
    }

    fn landing_page(&self, telemetry_path: &str) -> String {
        telemetry_path.to_owned()
    }

    fn health(&self) -> Result<(), Unwell> {
        Ok(())
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn answer(&self, _: Question) -> Option<Answer> {
        None
    }
}

/// Starts a server that never ends.
fn start() -> SocketAddr {
    let (started, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("no runtime");
        runtime.block_on(async {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let listeners = serve::bind(&[any]).expect("cannot listen");
            started
                .send(listeners[0].local_addr().expect("no address"))
                .expect("nobody waits");
            let settings = WebSettings {
                telemetry_path: "/metrics".to_owned(),
                max_requests: 40,
                config_file: None,
                limits: Limits {
                    request: Duration::from_secs(2),
                    answer: Duration::from_secs(2),
                    idle: Duration::from_secs(2),
                    ..Limits::default()
                },
            };
            serve::run(
                listeners,
                Arc::new(Page),
                None,
                &settings,
                std::future::pending(),
            )
            .await
            .expect("the server panicked");
        });
    });
    address.recv().expect("the server does not start")
}

fuzz_target!(|bytes: &[u8]| {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    let mut stream = TcpStream::connect(SERVER.get_or_init(start)).expect("nobody listens");
    stream.set_nodelay(true).expect("no such option");
    stream
        .set_read_timeout(Some(ANSWERED))
        .expect("no such option");
    // In two pieces, which the first byte chooses.
    let Some((&at, bytes)) = bytes.split_first() else {
        return;
    };
    let (first, second) = bytes.split_at(bytes.len().min(usize::from(at)));
    // Fails where the server has heard enough.
    let _ = stream
        .write_all(first)
        .and_then(|()| stream.write_all(second))
        .and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionReset,
            "no answer and no end"
        );
    }
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "an answer that is none"
    );
});
