"""A bank in XML-RPC, by Twisted. twisted_bank.py PORT LEDGER"""

import sys

from twisted.internet import reactor
from twisted.web import server, xmlrpc


class Bank(xmlrpc.XMLRPC):
    def xmlrpc_withdraw(self, amount):
        with open(sys.argv[2], "a") as file:
            file.write(f"{amount} - -\n")
        with open(sys.argv[2]) as file:
            return sum(int(line.split()[0]) for line in file)


port = reactor.listenTCP(int(sys.argv[1]), server.Site(Bank(allowNone=True)), interface="127.0.0.1")
print(f"listening at 127.0.0.1:{port.getHost().port}", flush=True)
reactor.run()
