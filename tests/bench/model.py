#!/usr/bin/python3
"""A model that streams for ever, a word a second, and tells when each of its callers leaves.

Writes to stdout `port N`, then a line per happening: `open NUMBER AT` when the request has come whose
text says "turn NUMBER", `closed NUMBER AT` when its socket was closed by the caller. AT is
CLOCK_MONOTONIC in seconds, which all processes of a machine share. A process of its own, so that
nothing else delays what it sees.
"""
import asyncio
import json
import re
import sys
import time

HEAD = (b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n')
WORD = b'data: ' + json.dumps({'choices': [{'index': 0, 'delta': {'content': 'word '}}]}).encode() \
    + b'\n\n'


def tell(what, number):
    print(what, number, '%.6f' % time.monotonic(), flush=True)


async def serve(reader, writer):
    number = None
    try:
        head = await reader.readuntil(b'\r\n\r\n')
        length = int(re.search(rb'(?i)content-length: *(\d+)', head).group(1))
        body = await reader.readexactly(length)
        number = int(re.findall(rb'turn (\d+)', body)[-1])
        writer.write(HEAD)
        tell('open', number)
        gone = asyncio.ensure_future(reader.read(1))
        while not gone.done():
            writer.write(WORD)
            await asyncio.wait([gone], timeout=1)
    except (OSError, EOFError, asyncio.IncompleteReadError):
        pass
    if number is not None:
        tell('closed', number)
    writer.close()


async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', 0, backlog=4096)
    print('port', server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(0)
