#!/usr/bin/env python3
"""Checks that serve.py serves: every server, plain and with TLS.

    selfcheck.py [NAME ...]

Prints a table with one line per server, and ends with status 1 if anything in
it is wrong. Takes about 15 seconds.
"""

import base64
import ctypes
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

SERVE = Path(__file__).resolve().parent / "serve.py"
NAMES = ["apache", "nginx", "lighttpd", "rclone", "wsgidav", "sabre"]
BODY = bytes(range(256)) * 8192  # 2 MiB, more than nginx takes by default
PROPFIND = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop>'
    b"<getetag/><getcontentlength/><resourcetype/></prop></propfind>"
)
PR_SET_CHILD_SUBREAPER = 36


class Client:
    def __init__(self, server, password):
        self.url = urlsplit(server["url"])
        self.password = password
        self.tls = None
        if server["ca_file"]:
            self.tls = ssl.create_default_context(cafile=server["ca_file"])
            self.tls.verify_flags |= ssl.VERIFY_X509_STRICT
        self.headers = {}
        if password is not None:
            login = f"{server['user']}:{password}".encode()
            login = base64.b64encode(login).decode()
            self.headers = {"Authorization": f"Basic {login}"}

    def __call__(self, method, path="", body=None, **headers):
        """Status, headers and body of the answer; PATH is below the base URL."""
        if self.tls:
            connection = http.client.HTTPSConnection(
                self.url.netloc, timeout=20, context=self.tls
            )
        else:
            connection = http.client.HTTPConnection(self.url.netloc, timeout=20)
        connection.request(
            method, self.url.path + path, body, {**self.headers, **headers}
        )
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content


def expect(what, good):
    if not good:
        raise AssertionError(what)


def check(server):
    """Yields (column, cell) as it goes; raises AssertionError."""
    root = Path(server["root"])
    password_file = Path(server["password_file"])
    expect("password file private", password_file.stat().st_mode & 0o777 == 0o600)
    dav = Client(server, password_file.read_text().strip())

    for column, client in (
        ("no auth", Client(server, None)),
        ("bad auth", Client(server, "wrong")),
    ):
        status, headers, _ = client("PROPFIND", Depth="0")
        yield column, status
        expect(f"{column}: 401", status == 401)
        expect("basic is offered", "basic" in headers["WWW-Authenticate"].lower())

    status, _, _ = dav("OPTIONS")
    yield "OPTIONS", status
    expect("OPTIONS: 200 or 204", status in (200, 204))

    status, _, _ = dav("MKCOL", "box/")
    yield "MKCOL", status
    expect("MKCOL: 201", status == 201)

    status, _, _ = dav("PUT", "box/a%20b", BODY)
    yield "PUT", status
    expect("PUT: 201", status == 201)
    expect("PUT is on disk", (root / "box" / "a b").read_bytes() == BODY)

    xml = {"Content-Type": "application/xml", "Depth": "1"}
    status, _, content = dav("PROPFIND", "box/", PROPFIND, **xml)
    yield "PROPFIND", status
    expect("PROPFIND: 207", status == 207)
    expect("PROPFIND names the file", b"a%20b" in content)
    expect("PROPFIND gives the length", str(len(BODY)).encode() in content)

    status, _, content = dav("GET", "box/a%20b")
    yield "GET", status
    expect("GET: 200 and the content", (status, content) == (200, BODY))

    status, _, content = dav("GET", "box/a%20b", Range="bytes=1000-1999")
    yield "range", status
    expect("range: 206 and the part", (status, content) == (206, BODY[1000:2000]))

    status, headers, _ = dav("HEAD", "box/a%20b")
    yield "HEAD", status
    expect("HEAD: 200", status == 200)
    yield "length", "yes" if headers["Content-Length"] == str(len(BODY)) else "no"
    yield "ETag", "yes" if headers["ETag"] else "no"

    # What a test does to the files behind the server's back.
    (root / "box" / "a b").write_bytes(b"changed")
    expect("a changed file", dav("GET", "box/a%20b")[2] == b"changed")
    (root / "box" / "own").mkdir()
    (root / "box" / "own" / "file").write_bytes(b"old")
    expect("a new file", dav("GET", "box/own/file")[2] == b"old")
    put = dav("PUT", "box/own/file", b"new")[0]
    expect(f"PUT over a new file ({put})", put in (200, 201, 204))
    put = dav("PUT", "box/own/other", b"new")[0]
    expect(f"PUT into a new directory ({put})", put in (200, 201, 204))
    shutil.rmtree(root / "box" / "own")
    expect("a removed directory", dav("GET", "box/own/file")[0] == 404)
    yield "disk", "yes"

    status, _, _ = dav("DELETE", "box/a%20b")
    yield "DELETE", status
    expect("DELETE: 204", status in (200, 204))
    expect("DELETE is on disk", not (root / "box" / "a b").exists())
    status = dav("DELETE", "box/")[0]
    expect(f"DELETE of a collection ({status})", status in (200, 204))
    expect("GET after DELETE: 404", dav("GET", "box/a%20b")[0] == 404)

    time.sleep(0.1)  # the log is written after the answer
    log = Path(server["access_log"]).read_text()
    lines = [line for line in log.splitlines() if "MKCOL" in line and "box/" in line]
    expect("MKCOL is in the log", lines)
    yield "log", "status" if any("201" in line for line in lines) else "method"
    for path in (root.parent.parent / "log").iterdir():
        expect(f"no password in {path}", dav.password not in path.read_text())


def start(name, directory, tls):
    command = [sys.executable, str(SERVE), name, "--dir", directory]
    process = subprocess.Popen(
        command + (["--tls"] if tls else []),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    if not line:
        process.wait()
        raise AssertionError("it did not start")
    return process, json.loads(line)


def nothing_left(patience):
    """Whether all our descendants are gone: we are whom orphans fall to."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            time.sleep(0.02)
    return False


def run(name, tls):
    """One line of the table, as a dictionary, and what is wrong or None."""
    row = {"server": name + (" tls" if tls else "")}
    # Not world-readable: the servers must cope with that.
    with tempfile.TemporaryDirectory(prefix="espejo-") as directory:
        try:
            began = time.monotonic()
            process, server = start(name, os.path.join(directory, "site"), tls)
            row["start"] = f"{time.monotonic() - began:.2f}s"
            try:
                for column, cell in check(server):
                    row[column] = str(cell)
            finally:
                began = time.monotonic()
                process.stdin.close()
                process.wait()
            row["stop"] = f"{time.monotonic() - began:.2f}s"
            expect(f"exit status 0, not {process.returncode}", process.returncode == 0)
            expect("nothing is left after the end of stdin", nothing_left(0.2))

            # The same directory again, and this time each rude way to end.
            for number in (signal.SIGTERM, signal.SIGKILL):
                process, _ = start(name, os.path.join(directory, "site"), tls)
                process.send_signal(number)
                process.wait()
                process.stdin.close()
                process.stdout.close()
                expect(f"nothing is left after {number.name}", nothing_left(10))
            row["gone"] = "yes"
        except (AssertionError, OSError, http.client.HTTPException) as problem:
            return row, f"{row['server']}: {problem!r}"
    return row, None


def main():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    rows, problems = [], []
    for tls in (False, True):
        for name in sys.argv[1:] or NAMES:
            row, problem = run(name, tls)
            rows.append(row)
            if problem:
                problems.append(problem)

    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = [columns] + [[row.get(column, "-") for column in columns] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*table)]
    for line in table:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
    for problem in problems:
        print("FAILED", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
