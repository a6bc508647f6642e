"""What tests of pages share: names that would break one, a parser of all that could run or load, and a browser."""

import base64
import contextlib
import fcntl
import hashlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)</script>",
    "</style><b>",
    "{{ 7 * 7 }} {% raw %}",
    "'; alert(1); //",
    "<!-- --> ]]> &amp; &lt;",
    "javascript:alert(1)",
    "a\nb",
    "x" * 300,
    "שלום $x_2$ 漢字 🦈",
]


class Parsed(HTMLParser):
    """Everything of a page that could run, load or be read."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts, self.styles, self.data, self.texts, self._open = [], [], [], {}, [], None
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag in ("script", "style"):
            self._open = (tag, attributes.get("id") if attributes.get("type") == "application/json" else None)

    def handle_data(self, text):
        if self._open is None:
            self.texts.append(text)
        elif self._open[1]:
            self.data[self._open[1]] = json.loads(text)
        else:
            (self.scripts if self._open[0] == "script" else self.styles).append(text)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._open = None

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


class Tables(HTMLParser):
    """The text of every cell of every table, and the attributes of what is drawn in it."""

    def __init__(self, path):
        super().__init__()
        self.found, self.drawn, self._cell = [], [], None
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.found.append([])
            self.drawn.append([])
        elif tag == "tr":
            self.found[-1].append([])
            self.drawn[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""
        elif tag in ("circle", "line", "rect", "path", "img") and self._cell is not None:
            self.drawn[-1][-1].append(dict(attributes))

    def handle_data(self, text):
        if self._cell is not None:
            self._cell += text

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.found[-1][-1].append(" ".join(self._cell.split()))
            self._cell = None


def decoded(uri):
    head, body = uri.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(body)))
    assert head == f"data:image/{image.format.lower()};base64"
    return np.asarray(image)


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Browser:
    """A page in a headless Chromium, spoken to through its debugging pipe: messages of JSON, each ended by a zero byte."""

    FLAGS = (
        *("--remote-debugging-pipe", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,2000"),
    )
    # Chromium reads file 3 and writes file 4.
    START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"

    def __init__(self, pipe, path):
        (self.into, self.out), self.rest, self.count, self.complaints, self.session = pipe, b"", 0, [], None
        self.requests = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=path.as_uri())

    @classmethod
    @contextlib.contextmanager
    def at(cls, path, profile):
        if CHROMIUM is None:
            pytest.skip("no Chromium on the PATH")
        low = (*os.pipe(), *os.pipe())
        pipes = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]  # out of the way of 3 and 4
        for end in low:
            os.close(end)
        theirs_in, ours_out, ours_in, theirs_out = pipes
        start = [sys.executable, "-S", "-c", cls.START, str(theirs_in), str(theirs_out), CHROMIUM, *cls.FLAGS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(start, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield cls((ours_in, ours_out), path)
        finally:
            process.terminate()
            process.wait(timeout=20)
            for end in pipes:
                os.close(end)

    def ask(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters} | ({"sessionId": self.session} if self.session else {})
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(answer["params"])
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == self.count:
                return answer["result"]

    def read(self):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.into], [], [], 60)
            got = os.read(self.into, 1 << 16) if ready else b""
            assert got, "the browser does not answer"
            self.rest += got
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def run(self, code):
        """The value of a JavaScript expression, awaited; what it raises fails the test."""
        result = self.ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, code):
        """Wait for an expression to become true."""
        end = time.monotonic() + 60
        while not self.run(code):
            assert time.monotonic() < end, f"never came true: {code}"
            time.sleep(0.02)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=ord(key[0].upper()) if len(key) == 1 else 0)
