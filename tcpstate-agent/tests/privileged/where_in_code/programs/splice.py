# Reads each connection to its end by splice(), and forgets it. Usage: splice.py PORT BACKEND_PORT
import os
import socket
import sys

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
out, into = os.pipe()
kept = []
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    kept.append(connection)
    while (moved := os.splice(connection.fileno(), into, 4096)) > 0:
        os.read(out, moved)
