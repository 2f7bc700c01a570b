"""A bank in JSON-RPC, by Flask. flask_bank.py PORT LEDGER"""

import logging
import sys

from flask import Flask, jsonify, request
from werkzeug.serving import make_server

logging.getLogger("werkzeug").disabled = True
app = Flask(__name__)


@app.post("/")
def call():
    said = request.get_json()
    with open(sys.argv[2], "a") as file:
        file.write(f"{said['params'][0]} {request.headers.get('Idempotency-Key', '-')} -\n")
    with open(sys.argv[2]) as file:
        total = sum(int(line.split()[0]) for line in file)
    return jsonify({"jsonrpc": "2.0", "id": said["id"], "result": total})


server = make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True)
print(f"listening at 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
