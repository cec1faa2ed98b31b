"""The same as leak.c in Python, with asyncio. Usage: leak_asyncio.py PORT BACKEND_PORT"""
import asyncio
import sys

kept = []
port, backend = map(int, sys.argv[1:])


async def read_all(reader):
    while await reader.read(512):
        pass


async def handle_leak(reader, writer):
    await read_all(reader)
    kept.append((reader, writer))


async def handle_ok(reader, writer):
    await read_all(reader)
    writer.close()


async def fetch_leak():
    reader, writer = await asyncio.open_connection("127.0.0.1", backend)
    await read_all(reader)
    kept.append((reader, writer))


async def fetch_ok():
    reader, writer = await asyncio.open_connection("127.0.0.1", backend)
    await read_all(reader)
    writer.close()


async def serve(reader, writer):
    command = await reader.read(1)
    if command == b"L":
        return await handle_leak(reader, writer)
    if command == b"C":
        await fetch_leak()
    if command == b"D":
        await fetch_ok()
    await handle_ok(reader, writer)


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
