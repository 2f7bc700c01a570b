"""A bank in JSON-RPC, by jsonrpclib-pelix. json_bank.py PORT LEDGER"""

import sys

from jsonrpclib.SimpleJSONRPCServer import SimpleJSONRPCServer


def withdraw(amount):
    with open(sys.argv[2], "a") as file:
        file.write(f"{amount} - -\n")
    with open(sys.argv[2]) as file:
        return sum(int(line.split()[0]) for line in file)


bank = SimpleJSONRPCServer(("127.0.0.1", int(sys.argv[1])), logRequests=False)
bank.register_function(withdraw)
print(f"listening at 127.0.0.1:{bank.socket.getsockname()[1]}", flush=True)
bank.serve_forever()
