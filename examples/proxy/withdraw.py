import sys
from xmlrpc.client import ServerProxy

bank = ServerProxy(sys.argv[1])
print("taken in all:", bank.withdraw(10))
