# Reads each MPTCP connection to its end and forgets it. Usage: mptcp.py PORT BACKEND_PORT
import socket
import sys

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
kept = []
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    kept.append(connection)
    while connection.recv(512):
        pass
