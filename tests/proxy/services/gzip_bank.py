"""A service that compresses: where it is told that it may, and under /always whatever it is told.

    gzip_bank.py PORT LEDGER [SECONDS]
"""

import gzip
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, ledger = int(sys.argv[1]), sys.argv[2]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with open(ledger, "a") as file:
            file.write(f"10 {self.headers.get('Idempotency-Key', '-')} -\n")
        answer = b"ten were taken, and ten more were not\n" * 20
        may = "gzip" in self.headers.get("Accept-Encoding", "")
        self.send_response(200)
        if may or self.path == "/always":
            answer = gzip.compress(answer)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words):
        pass


server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
print(f"listening at 127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
