"""Six threads ask a backend that never answers, under a pool; two more wait for each other's locks.
Usage: pool.py BACKEND_PORT"""
import socket
import sys
import threading

ready = threading.Semaphore(0)
one, other = threading.Lock(), threading.Lock()
met = threading.Barrier(2)


def query(connection):
    ready.release()
    return connection.recv(512)


def work():
    query(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))


def transfer(first, second):
    with first:
        met.wait()
        ready.release()
        with second:
            pass


for _ in range(6):
    threading.Thread(target=work, daemon=True).start()
threading.Thread(target=transfer, args=(one, other), daemon=True).start()
threading.Thread(target=transfer, args=(other, one), daemon=True).start()
for _ in range(8):
    ready.acquire()
print("ready", flush=True)
sys.stdin.read()
