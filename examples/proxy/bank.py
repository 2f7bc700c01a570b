"""A bank: `withdraw` takes an amount and says what was taken in all. bank.py PORT"""

import sys
from xmlrpc.server import SimpleXMLRPCServer

taken = 0


def withdraw(amount):
    global taken
    taken += amount
    return taken


bank = SimpleXMLRPCServer(("127.0.0.1", int(sys.argv[1])), logRequests=False)
bank.register_function(withdraw)
bank.serve_forever()
