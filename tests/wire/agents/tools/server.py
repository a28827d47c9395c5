#!/usr/bin/env python3
"""The http tools and the http flow of the suite; prints the port it has taken."""
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


calls = {}  # city: the idempotency keys it was asked for with, an effect each


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.answer(json.dumps({city: len(keys) for city, keys in calls.items()}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get('content-length') or 0)) or 'null')
        if self.path == '/weather':
            calls.setdefault(body['city'], set()).add(self.headers.get('idempotency-key'))
            self.answer(json.dumps({'city': body['city'], 'tempC': 21}).encode())
        elif self.path == '/count':
            self.count(body)
        else:
            self.send_error(404)

    def answer(self, data):
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def line(self, value):
        data = json.dumps(value).encode() + b'\n'
        self.wfile.write(b'%x\r\n%s\r\n' % (len(data), data))
        self.wfile.flush()

    def count(self, body):
        self.send_response(200)
        self.send_header('Content-Type', 'application/x-ndjson')
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()
        for i in range(body.get('n', 0)):
            time.sleep(body.get('ms', 0) / 1000)
            self.line({'chunk': {'i': i}})
        if body.get('fail'):
            self.line({'error': {'message': 'told to fail', 'retryable': False}})
        else:
            self.line({'result': {'total': body.get('n', 0)}})
        self.wfile.write(b'0\r\n\r\n')


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(('127.0.0.1', int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
print(server.server_address[1], flush=True)
parent = os.getppid()
server.timeout = 1
while os.getppid() == parent:  # it does not outlive who started it
    server.handle_request()
