"""What the measurements stand on: a meter, a keyring, a server that counts, a slow line."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests/servers"))
import serve  # noqa: E402


@dataclass
class Sample:
    seconds: float
    rss_kib: int
    requests: int = 0
    up: int = 0
    down: int = 0


class Machine:
    """WORK is where everything lies; the memory file system for what must not be measured by the disk."""

    def __init__(self, work, path):
        self.work = Path(work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.work.chmod(0o755)  # Apache drops its rights, and must still reach what it serves.
        self.env = {"PATH": f"{path}:{os.environ['PATH']}", "HOME": str(self.work), "LANG": "C.UTF-8"}
        self.children = []

    def run(self, *command, **more):
        """Runs it unmeasured; it must succeed."""
        command = [str(word) for word in command]
        done = subprocess.run(command, env=self.env, capture_output=True, stdin=subprocess.DEVNULL, **more)
        if done.returncode != 0:
            raise SystemExit(f"{command}: {done.stdout.decode()}{done.stderr.decode()}")
        return done.stdout.decode()

    def measure(self, *command, ok=(0,), **more):
        """Wall time, and the peak of the largest process; starting `time` (1 ms) is part of everybody's time."""
        report = self.work / "rss"
        command = ["time", "-f", "%M", "-o", str(report), *map(str, command)]
        begun = time.monotonic()
        out = more.pop("stdout", subprocess.DEVNULL)
        done = subprocess.run(
            command, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, **more
        )
        seconds = time.monotonic() - begun
        if done.returncode not in ok:
            raise SystemExit(f"{command}: exit {done.returncode}: {done.stderr.decode()}")
        return Sample(seconds, int(report.read_text().split()[-1]))

    def start(self, *command, **more):
        child = subprocess.Popen([str(word) for word in command], env=self.env, **more)
        self.children.append(child)
        return child

    def start_keyring(self):
        """A session bus with a keyring, as on a desktop: `espejo unlock` keeps its key there."""
        bus = self.start("dbus-daemon", "--session", "--nofork", "--print-address=1", stdout=subprocess.PIPE)
        self.env["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().decode().strip()
        arguments = ["--foreground", "--unlock", "--components=secrets"]
        keyring = self.start(
            "gnome-keyring-daemon", *arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        keyring.stdin.write(b"password")
        keyring.stdin.close()
        time.sleep(1)

    def stop(self):
        for child in reversed(self.children):
            child.kill()
            child.wait()


def apache_that_counts(site):
    commands = serve.apache(site)
    config = site.conf / "apache.conf"
    config.write_text(config.read_text().replace('%>s" requests', '%>s %I %O" requests'))
    return commands


class Server:
    """Apache with mod_dav as the tests start it, and a log that has the bytes too."""

    def __init__(self, machine):
        self.site = serve.Site(machine.work / "site", tls=False)
        serve.SERVERS["apache that counts"] = apache_that_counts
        self.children = serve.start_until_ready("apache that counts", self.site, None)
        self.seen = 0

    def url(self, name, port=None):
        return f"http://127.0.0.1:{port or self.site.port}/dav/{name}"

    def wipe(self):
        for item in self.site.root.iterdir():
            shutil.rmtree(item)

    def since_last(self):
        """Requests and bytes each way since this was asked last; the log may lag behind the answers."""
        size, still = -1, 0
        while still < 3:
            time.sleep(0.03)
            now = self.site.access_log.stat().st_size
            size, still = now, still + 1 if now == size else 0
        with open(self.site.access_log, "rb") as log:
            log.seek(self.seen)
            lines = re.findall(rb'^"[^"]*" \d+ (\d+) (\d+)$', log.read(), re.M)
            self.seen = log.tell()
        return len(lines), sum(int(up) for up, _ in lines), sum(int(down) for _, down in lines)

    def counted(self, sample):
        sample.requests, sample.up, sample.down = self.since_last()
        return sample

    def slow(self, machine, round_trip):
        """The port of a line to this server on which a round trip takes that long."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        script = [sys.executable, HERE / "slow.py", str(port), str(self.site.port), str(round_trip)]
        machine.start(*script, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        return port

    def stop(self):
        serve.stop(self.children)


def about():
    """The machine, for the reader of the table."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    commit = subprocess.run(["git", "describe", "--always"], cwd=ROOT, capture_output=True).stdout
    return {
        "cpu": f"{os.cpu_count()} × {cpu.group(1) if cpu else 'unknown'}",
        "memory": f"{int(memory.group(1)) >> 20} GiB",
        "kernel": os.uname().release,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.decode().strip(),
    }


def save(path, results):
    Path(path).write_text(json.dumps(results, indent=1, default=vars))
