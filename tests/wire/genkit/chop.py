#!/usr/bin/env python3
"""A TCP proxy that is as rude as a network may be: chop.py PORT TARGET...

Splits what the targets answer at random bytes, with pauses of up to 2 ms; connects each client to
the next target, and to another one when that is down, as a balancer does.
"""
import asyncio
import random
import sys

port, targets = int(sys.argv[1]), [int(t) for t in sys.argv[2:]]
turn = 0


async def copy(reader, writer, chop):
    try:
        while True:
            data = await reader.read(65536)
            if not data:
                break
            pieces = random.randint(1, 8) if chop else 1
            cuts = sorted(random.randrange(len(data) + 1) for _ in range(pieces - 1))
            for start, end in zip([0] + cuts, cuts + [len(data)]):
                if start == end:
                    continue
                writer.write(data[start:end])
                await writer.drain()
                if chop:
                    await asyncio.sleep(random.random() * 0.002)
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()  # a reset stays a reset


async def serve(reader, writer):
    global turn
    for _ in range(100 * len(targets)):
        turn += 1
        try:
            back, there = await asyncio.open_connection('127.0.0.1', targets[turn % len(targets)])
            break
        except OSError:
            await asyncio.sleep(0.02)
    else:
        writer.transport.abort()
        return
    for w in (writer, there):
        w.transport.get_extra_info('socket').setsockopt(6, 1, 1)  # TCP_NODELAY: pieces stay pieces
    try:
        up = asyncio.ensure_future(copy(reader, there, False))
        await copy(back, writer, len(targets) == 1)
        up.cancel()
        await asyncio.gather(up, return_exceptions=True)
    finally:
        for w in (writer, there):
            w.close()


async def main():
    async with await asyncio.start_server(serve, '127.0.0.1', port) as server:
        await server.serve_forever()

asyncio.run(main())
