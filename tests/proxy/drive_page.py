"""Clicks through the admin page in a headless Chromium, over its DevTools protocol, with nothing but
the standard library: drive_page.py CHROMIUM URL TOKEN KEY SHOTS. Prints what it saw as one JSON document.
"""

import base64
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

chromium, url, token, key, shots = sys.argv[1:6]


class Tools:
    """One page's DevTools, over a web socket."""

    def __init__(self, address):
        host, path = address.removeprefix("ws://").split("/", 1)
        name, port = host.split(":")
        self.socket = socket.create_connection((name, int(port)), timeout=30)
        nonce = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        self.number = 0

    def send(self, text):
        data, mask = text.encode(), os.urandom(4)
        length = len(data)
        if length < 126:
            head = struct.pack("!BB", 0x81, 0x80 | length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x81, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x81, 0x80 | 127, length)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self.socket.sendall(head + mask + masked)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError("the browser has closed")
            data += more
        return data

    def receive(self):
        text, final = b"", False
        while not final:
            first, second = self.exactly(2)
            final, length = bool(first & 0x80), second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", self.exactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self.exactly(8))
            text += self.exactly(length)
        return json.loads(text)

    def start(self, method, **parameters):
        self.number += 1
        self.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        return self.number

    def ask(self, method, **parameters):
        number = self.start(method, **parameters)
        while True:
            said = self.receive()
            # Somebody has to say yes to `confirm`.
            if said.get("method") == "Page.javascriptDialogOpening":
                self.start("Page.handleJavaScriptDialog", accept=True)
            if said.get("id") == number:
                if "error" in said:
                    raise RuntimeError(said["error"])
                return said["result"]

    def value(self, script):
        said = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise RuntimeError(said["exceptionDetails"])
        return said["result"].get("value")

    def until(self, script):
        for _ in range(150):
            value = self.value(script)
            if value:
                return value
            time.sleep(0.1)
        raise TimeoutError(script + ": " + self.value("document.body.innerText"))


def fill(id, text):
    tools.value(f"document.getElementById({json.dumps(id)}).value = {json.dumps(text)}")


def click(selector):
    tools.value(f"document.querySelector({json.dumps(selector)}).click()")


folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
browser = subprocess.Popen(
    [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
     "--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={folder.name}", "about:blank"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
try:
    port_file = pathlib.Path(folder.name, "DevToolsActivePort")
    for _ in range(300):
        if port_file.exists() and port_file.read_text().count("\n"):
            break
        time.sleep(0.1)
    port = port_file.read_text().split("\n")[0]
    pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30))
    tools = Tools(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
    tools.ask("Page.enable")
    tools.ask("Emulation.setDeviceMetricsOverride", width=1100, height=900, deviceScaleFactor=1, mobile=False)
    tools.ask("Page.navigate", url=url)
    seen = {}
    tools.until("document.readyState === 'complete' && !!document.querySelector('#answers tbody tr')")
    seen["without_token"] = tools.value("document.querySelectorAll('#doubts tbody tr').length")
    fill("token", "a token that is not right")
    click("#enter button")
    tools.until("document.getElementById('said').textContent.includes('not right')")
    fill("token", token)
    click("#enter button")
    tools.until("!!document.querySelector('#doubts .resolve')")
    seen["doubts"] = tools.value("[...document.querySelectorAll('#doubts tbody tr td:first-child')].map(cell => cell.textContent)")
    for scheme in ("light", "dark"):
        tools.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        seen[scheme] = tools.value("getComputedStyle(document.body).backgroundColor")
        shot = tools.ask("Page.captureScreenshot", format="png")["data"]
        pathlib.Path(shots, f"{scheme}.png").write_bytes(base64.b64decode(shot))
    click("#doubts .resolve")
    click("[name=outcome][value=applied]")
    fill("code", "201")
    fill("body", "receipt")
    fill("by", "ann")
    shot = tools.ask("Page.captureScreenshot", format="png")["data"]
    pathlib.Path(shots, "resolve.png").write_bytes(base64.b64decode(shot))
    click("#really")
    tools.until("document.getElementById('said').textContent.startsWith('resolved')")
    tools.until("!document.querySelector('#doubts .resolve')")
    fill("key", key)
    click("#search button")
    tools.until("document.getElementById('story').textContent.includes('now: completed')")
    seen["story"] = tools.value("document.getElementById('story').innerText")
    tools.value("document.getElementById('story').scrollIntoView()")
    for scheme in ("light", "dark"):
        tools.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        shot = tools.ask("Page.captureScreenshot", format="png")["data"]
        pathlib.Path(shots, f"story-{scheme}.png").write_bytes(base64.b64decode(shot))
    fill("key", "nobody-has-used-it")
    click("#search button")
    tools.until("document.getElementById('story').textContent.includes('now: absent')")
    click("#seal")
    tools.until("document.getElementById('said').textContent === 'sealed'")
    seen["sealed"] = tools.value("document.getElementById('story').innerText")
    seen["bars"] = tools.value("document.querySelectorAll('#latency rect').length")
    print(json.dumps(seen))
finally:
    browser.kill()
    browser.wait()
