//! The same as leak.c as a tokio program: a task for each connection, which begins with what is to
//! become of it.

use std::{future::Future, hint::black_box, mem, net::Ipv4Addr, pin::Pin};

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};

use crate::actor::LEAK;

/// Serves until the runtime is dropped. Returns that, and the port.
pub(crate) fn serve() -> (Runtime, u16) {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_io().build().unwrap();
    let listener = runtime
        .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    (runtime, port)
}

async fn handle(mut stream: TcpStream) {
    let command = stream.read_u8().await.unwrap();
    // As async traits are made of. What is awaited directly is a part of the same function to an
    // optimizing compiler, and only debug information tells them apart.
    let handled: Pin<Box<dyn Future<Output = ()> + Send>> = if command == LEAK {
        Box::pin(handle_leak(stream))
    } else {
        Box::pin(handle_ok(stream))
    };
    handled.await;
}

async fn handle_leak(mut stream: TcpStream) {
    let read = read_all(&mut stream).await;
    mem::forget(stream);
    black_box(read);
}

async fn handle_ok(mut stream: TcpStream) {
    let read = read_all(&mut stream).await;
    drop(stream);
    black_box(read);
}

async fn read_all(stream: &mut TcpStream) -> usize {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap()
}
