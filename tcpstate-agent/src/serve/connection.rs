//! One connection: TLS or not, HTTP/1.1 or HTTP/2, and every request on it.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response},
    response::IntoResponse as _,
};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
    service::TowerToHyperService,
};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch as signal,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tracing::debug;

use super::{
    activity::{Activity, Tracked},
    counters::{Counters, Dropped, Refusal},
    limits::Limits,
    source::Source,
    stream::{Beginning, ClientStream},
    web_config::WebConfig,
};

/// Requests that are answered on one HTTP/2 connection at once.
const STREAMS: u32 = 16;
/// What HTTP/2 keeps of one answer beside the page itself.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
/// What a client may send over HTTP/2 that nobody reads: on a connection, which cannot be less, and of
/// one request. Requests have no bodies worth reading.
const HTTP2_WINDOW: u32 = 65_535;
const HTTP2_STREAM_WINDOW: u32 = 4096;
/// What TLS keeps of an answer that is not read.
const TLS_BUFFER: usize = 16 * 1024;

/// Alerts that the library does not send: it has no configuration to do so by, or would send another.
const INTERNAL_ERROR: u8 = 80;
const PROTOCOL_VERSION: u8 = 70;
/// How long a client may take to hear why it is not served.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// As Go's server says it.
const NOT_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// What every connection works with.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) router: Router,
    pub(super) config: Option<Arc<WebConfig>>,
    pub(super) counters: Arc<Counters>,
    pub(super) limits: Limits,
    pub(super) stopped: signal::Receiver<bool>,
}

/// Serves one client until it or the server ends the connection.
pub(super) async fn serve(
    serving: Serving,
    stream: TcpStream,
    source: Source,
    activity: Arc<Activity>,
) {
    let is_tls = serving
        .config
        .as_ref()
        .is_some_and(|config| config.speaks_tls());
    let counters = Arc::clone(&serving.counters);
    let stream = ClientStream::new(stream, Arc::clone(&activity), is_tls);
    let client = Client {
        serving,
        source,
        activity: Arc::clone(&activity),
    };
    let served = activity.guard(client.serve(stream, is_tls)).await;
    if served.is_none()
        && let Some(why) = activity.why_cut()
    {
        counters.dropped(why);
    }
    counters.ended();
}

struct Client {
    serving: Serving,
    source: Source,
    activity: Arc<Activity>,
}

impl Client {
    /// Each step is boxed: a connection takes the memory of what it does, not of the most that it
    /// could do.
    async fn serve(self, stream: ClientStream, is_tls: bool) {
        if !is_tls {
            return Box::pin(self.http1(stream)).await;
        }
        match Box::pin(self.handshake(stream)).await {
            Ok(Some(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Box::pin(self.http2(stream)).await;
            }
            Ok(Some(stream)) => Box::pin(self.http1(stream)).await,
            Ok(None) => {}
            Err(error) => {
                debug!(%error, "no TLS connection came about");
                self.serving.counters.dropped(Dropped::Handshake);
            }
        }
    }

    /// `None` where the client does not speak TLS.
    async fn handshake(&self, stream: ClientStream) -> io::Result<Option<TlsStream<ClientStream>>> {
        match stream.beginning().await? {
            Beginning::Http => {
                self.serving.counters.refused(Refusal::NotTls);
                last_words(stream, NOT_TLS).await;
                return Ok(None);
            }
            Beginning::OldTls => {
                last_words(stream, &alert(PROTOCOL_VERSION)).await;
                return Err(io::Error::other("the client speaks an old version of TLS"));
            }
            Beginning::Tls => {}
        }
        let mut acceptor = pin!(LazyConfigAcceptor::new(Acceptor::default(), stream));
        let hello = match acceptor.as_mut().await {
            Ok(hello) => hello,
            Err(error) => {
                // The library has sent its alert.
                if let Some(stream) = acceptor.take_io() {
                    last_words(stream, &[]).await;
                }
                return Err(error);
            }
        };
        let config = self.serving.config.as_ref().and_then(|config| config.tls());
        let Some(config) = config else {
            self.serving.counters.refused(Refusal::Config);
            last_words(hello.io, &alert(INTERNAL_ERROR)).await;
            return Err(io::Error::other(
                "the web configuration file cannot be used",
            ));
        };
        let handshake = hello.into_stream_with(config, |connection| {
            connection.set_buffer_limit(Some(TLS_BUFFER));
        });
        match handshake.into_fallible().await {
            Ok(mut stream) => {
                stream.get_mut().0.handshake_is_done();
                Ok(Some(stream))
            }
            Err((error, stream)) => {
                last_words(stream, &[]).await;
                Err(error)
            }
        }
    }

    async fn http1(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let counters = Arc::clone(&self.serving.counters);
        let stopped = self.serving.stopped.clone();
        let limits = self.serving.limits;
        let service = service_fn(|request| self.answer(request));
        let connection = http1::Builder::new()
            .max_buf_size(limits.header_bytes)
            // Who has asked and says nothing more may still be reading.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = until_stopped(connection, stopped).await {
            debug!(%error, "an HTTP connection failed");
            if error.is_parse_too_large() {
                counters.refused(Refusal::HeadersTooLarge);
            } else if error.is_parse() {
                counters.refused(Refusal::Malformed);
            }
        }
    }

    async fn http2(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        self.activity.multiplexes();
        let stopped = self.serving.stopped.clone();
        let header_bytes = u32::try_from(self.serving.limits.header_bytes).unwrap_or(u32::MAX);
        let client = Arc::new(self);
        let service = service_fn(move |request| {
            let client = Arc::clone(&client);
            async move { client.answer(request).await }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(header_bytes)
            .max_send_buf_size(HTTP2_SEND_BUFFER)
            .initial_connection_window_size(HTTP2_WINDOW)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = until_stopped(connection, stopped).await {
            debug!(%error, "an HTTP/2 connection failed");
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Tracked>, std::convert::Infallible> {
        let answering = self.activity.requested();
        let admitted = match &self.serving.config {
            Some(config) => config.admit(request.headers(), self.source).await,
            None => Ok(Vec::new()),
        };
        let (mut response, headers) = match admitted {
            Ok(headers) => {
                let router = TowerToHyperService::new(self.serving.router.clone());
                let request = request.map(Body::new);
                // The router answers everything.
                let response = hyper::service::Service::call(&router, request).await?;
                (response, headers)
            }
            Err(refused) => {
                self.serving.counters.refused(refused.why);
                let reason = refused.status.canonical_reason().unwrap_or_default();
                let response = (refused.status, format!("{reason}\n")).into_response();
                (response, refused.headers)
            }
        };
        response.headers_mut().extend(headers);
        Ok(response.map(|body| Tracked::new(body, answering)))
    }
}

/// Serves until the connection ends; once the server is to stop, no request is begun.
async fn until_stopped<E>(
    connection: impl GracefulConnection<Error = E>,
    mut stopped: signal::Receiver<bool>,
) -> Result<(), E> {
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = is_to_stop(&mut stopped) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Waits until the server is to stop. That nobody could say so any more is as good.
pub(super) async fn is_to_stop(stopped: &mut signal::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Says something and ends the connection. What the client has sent already is read, for a moment:
/// if it were not, the kernel would reset the connection, and the client might not hear it.
async fn last_words(mut stream: ClientStream, words: &[u8]) {
    let said = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // Who has hung up already is none of ours.
    let _ = timeout(LAST_WORDS, said).await;
}

/// A record with an alert, fatal.
const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}
