"""The same as leak.c in Python, with threads. Usage: leak.py PORT BACKEND_PORT"""
import socket
import sys
import threading

kept = []
backend = int(sys.argv[2])


def read_all(connection):
    total = b""
    while True:
        data = connection.recv(512)
        if not data:
            return total
        total += data


def handle_leak(connection):
    read_all(connection)
    kept.append(connection)


def handle_deep(connection, depth=60):
    if depth:
        handle_deep(connection, depth - 1)
    else:
        handle_leak(connection)


def handle_ok(connection):
    read_all(connection)
    connection.close()


def fetch_leak():
    connection = socket.create_connection(("127.0.0.1", backend))
    read_all(connection)
    kept.append(connection)


def fetch_ok():
    connection = socket.create_connection(("127.0.0.1", backend))
    read_all(connection)
    connection.close()


def serve(connection):
    command = connection.recv(1)
    if command == b"L":
        return handle_leak(connection)
    if command == b"P":
        return handle_deep(connection)
    if command == b"C":
        fetch_leak()
    if command == b"D":
        fetch_ok()
    handle_ok(connection)


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(128)
print("ready", flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
