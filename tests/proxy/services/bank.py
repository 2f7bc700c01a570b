"""A bank as its users write one: XML-RPC from the standard library, and no idea of keys.

    bank.py PORT LEDGER [SECONDS]

Every withdrawal is appended to LEDGER: what it took, and the key and the token that came with it.
It takes SECONDS from then until it is answered.
"""

import os
import sys
import time
from socketserver import ThreadingMixIn
from threading import Lock, local
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

port, ledger = int(sys.argv[1]), sys.argv[2]
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
said, lock = local(), Lock()


class Handler(SimpleXMLRPCRequestHandler):
    def do_POST(self):
        said.key = self.headers.get("Idempotency-Key", "-")
        said.token = self.headers.get("Idempotency-Fencing-Token", "-")
        super().do_POST()


class Bank(ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True
    request_queue_size = 128


def withdraw(amount):
    with lock:
        with open(ledger, "a") as file:
            file.write(f"{amount} {said.key} {said.token}\n")
            file.flush()
            os.fsync(file.fileno())
        total = taken()
    time.sleep(seconds)
    return total


def taken():
    try:
        with open(ledger) as file:
            return sum(int(line.split()[0]) for line in file)
    except FileNotFoundError:
        return 0


bank = Bank(("127.0.0.1", port), Handler, logRequests=False)
bank.register_function(withdraw)
bank.register_function(taken)
bank.register_introspection_functions()
bank.register_multicall_functions()
print(f"listening at 127.0.0.1:{bank.server_address[1]}", flush=True)
bank.serve_forever()
