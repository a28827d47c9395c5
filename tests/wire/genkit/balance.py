#!/usr/bin/env python3
"""An HTTP balancer that bears the death of what stands behind it: balance.py PORT TARGET...

What a balancer may do for clients that know nothing of it: a request that has no answer yet is sent
to the next target, with the Idempotency-Key it was given here, so that it is no second turn; a stream
that is cut is joined again at the next target by its id, and the frames that the client has are left
out. An answer with a length is passed on when it is whole.
"""
import asyncio
import sys
import uuid

port, targets = int(sys.argv[1]), [int(t) for t in sys.argv[2:]]
KEEP_ALIVE = b'data: {"message":{}}'
turn = 0
counts = {'sent again': 0, 'joined again': 0}


class Cut(Exception):
    """The target is gone, and the answer is not whole."""


class Left(Exception):
    """The client is gone."""


async def read_head(reader):
    lines = (await reader.readuntil(b'\r\n\r\n'))[:-4].split(b'\r\n')
    return lines[0], [tuple(x.strip() for x in line.split(b':', 1)) for line in lines[1:]]


def value(headers, name, fallback=b''):
    return next((v for k, v in headers if k.lower() == name), fallback)


async def read_chunks(reader):
    while True:
        size = int((await reader.readuntil(b'\r\n')).split(b';')[0], 16)
        data = (await reader.readexactly(size + 2))[:-2]
        if size == 0:
            return
        yield data


async def read_body(reader, headers):
    if value(headers, b'transfer-encoding').lower() == b'chunked':
        return b''.join([data async for data in read_chunks(reader)])
    return await reader.readexactly(int(value(headers, b'content-length', b'0')))


def put_head(first, headers):
    return b'\r\n'.join([first] + [k + b': ' + v for k, v in headers]) + b'\r\n\r\n'


class Exchange:
    def __init__(self, writer, first, headers, body):
        self.writer, self.first, self.body = writer, first, body
        drop = (b'connection', b'transfer-encoding', b'content-length')
        self.headers = [h for h in headers if h[0].lower() not in drop]
        if first.startswith(b'POST ') and not value(headers, b'idempotency-key'):
            self.headers.append((b'Idempotency-Key', str(uuid.uuid4()).encode()))
        self.stream_id = value(headers, b'x-genkit-stream-id')
        self.streaming, self.passed = False, 0  # passed: frames that the client has

    def request(self):
        headers, body = self.headers, self.body
        if self.streaming:
            headers = [h for h in headers if h[0].lower() not in (b'idempotency-key',
                                                                  b'x-genkit-stream-id')]
            headers, body = headers + [(b'X-Genkit-Stream-Id', self.stream_id)], b'{}'
        return put_head(self.first, headers + [(b'Connection', b'close'),
                                               (b'Content-Length', b'%d' % len(body))]) + body

    async def put(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def stream(self, reader, first, headers):
        if not self.streaming:
            self.streaming = True
            self.stream_id = value(headers, b'x-genkit-stream-id', self.stream_id)
            await self.put(put_head(first, [h for h in headers if h[0].lower() != b'connection']))
        seen, rest = 0, b''
        async for data in read_chunks(reader):
            *frames, rest = (rest + data).split(b'\n\n')
            for frame in frames:
                known = frame != KEEP_ALIVE and seen < self.passed
                seen += frame != KEEP_ALIVE
                if not known:
                    self.passed = max(self.passed, seen)
                    await self.put(b'%x\r\n%s\n\n\r\n' % (len(frame) + 2, frame))
        await self.put(b'0\r\n\r\n')

    async def once(self):
        global turn
        turn += 1
        try:
            reader, there = await asyncio.open_connection(
                '127.0.0.1', targets[turn % len(targets)], limit=64 << 20)
        except OSError:
            await asyncio.sleep(0.02)
            raise Cut
        try:
            there.write(self.request())
            await there.drain()
            first, headers = await read_head(reader)
            if value(headers, b'transfer-encoding').lower() == b'chunked':
                await self.stream(reader, first, headers)
            else:
                body = b'' if b' 204' in first else await read_body(reader, headers)
                if self.streaming:
                    raise Left  # its stream is unknown now: a reset says so
                await self.put(put_head(first, [h for h in headers
                                                if h[0].lower() != b'connection']) + body)
        except (OSError, EOFError):
            if self.writer.transport.is_closing():
                raise Left
            counts['joined again' if self.streaming else 'sent again'] += 1
            raise Cut
        finally:
            there.transport.abort()  # the client has left, or nothing more is wanted

    async def run(self):
        for _ in range(2000):
            try:
                return await self.once()
            except Cut:
                pass
        raise Left


async def serve(reader, writer):
    head = None
    try:
        while True:
            first, headers = await (head or read_head(reader))
            body = await read_body(reader, headers)
            work = asyncio.ensure_future(Exchange(writer, first, headers, body).run())
            head = asyncio.ensure_future(read_head(reader))  # it ends early when the client leaves
            await asyncio.wait([work, head], return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and head.exception():
                work.cancel()
            await work
            if value(headers, b'connection').lower() == b'close':
                break
    except (OSError, EOFError, ValueError, Left, asyncio.CancelledError, asyncio.LimitOverrunError):
        if head and not head.done():
            writer.transport.abort()
    finally:
        if head and not head.done():
            head.cancel()
        writer.close()


async def report():
    while True:
        await asyncio.sleep(1)
        print(', '.join('%s %d' % (v, k) for v, k in counts.items()), flush=True)


async def main():
    asyncio.ensure_future(report())
    async with await asyncio.start_server(serve, '127.0.0.1', port, limit=64 << 20) as server:
        await server.serve_forever()

asyncio.run(main())
