"""A link that loses the first answer: what was asked arrives, the answer does not. bad_link.py PORT TO_PORT"""

import socket
import sys
from threading import Thread

port, to_port = int(sys.argv[1]), int(sys.argv[2])
lost = 0


def carry(source, target):
    global lost
    while data := source.recv(65536):
        if data.startswith(b"HTTP/1") and b" 200 " in data[:16] and lost < 1:
            lost += 1
            break
        target.sendall(data)
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


link = socket.create_server(("127.0.0.1", port))
while True:
    client, _ = link.accept()
    server = socket.create_connection(("127.0.0.1", to_port))
    Thread(target=carry, args=(client, server), daemon=True).start()
    Thread(target=carry, args=(server, client), daemon=True).start()
