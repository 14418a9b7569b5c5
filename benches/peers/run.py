#!/usr/bin/env python3
"""Measures Espejo beside what people would use instead, and writes the tables of docs/performance.md.

    benches/peers/install.sh VENV
    benches/peers/run.py --disk DIR --rclone VENV/bin [--rounds 5] [--only network,latency,...]

Everything that goes over the network is measured in memory (--memory, a directory there); what is about disks is
measured in DIR. The runs of the tools alternate, and the median counts.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True

import journal  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402
import tools  # noqa: E402

ROUND_TRIP = 0.05
LARGE = 1 << 30


class Results(dict):
    """Samples by scenario, then by tool."""

    def add(self, scenario, tool, sample):
        self.setdefault(scenario, {}).setdefault(tool, []).append(sample)
        print(f"{scenario:28} {tool:14} {sample.seconds:8.3f} s {sample.rss_kib >> 10:5} MiB "
              f"{sample.requests:6} requests {sample.up:10} up {sample.down:10} down", flush=True)


def source(box, entries, photos=0):
    folder = box.memory.work / f"source-{entries}-{photos}"
    if not folder.exists():
        journal.write(folder, entries, photos)
    return folder


def syncs(box, entries, rounds, line=None, photos=0, only=None):
    """Push, clone, nothing to do, one edit, ten edits and ten deletions, and what the other device makes of it."""
    kind = f"{entries:,}" + (" + 50 ms" if line else "") + (f" + {photos} photos" if photos else "")
    folder = source(box, entries, photos)
    for number in range(rounds):
        box.server.wipe()
        for tool in [tool(box.memory, box.server, line) for tool in only or tools.ALL]:
            tool.reset(folder)

            def step(what, command):
                box.server.since_last()
                sample = box.server.counted(box.memory.measure(*command, cwd="/"))
                box.results.add(f"{what}, {kind}", tool.name, sample)

            step("first push", tool.push())
            step("clone", tool.clone())
            tool.settle()
            if photos:
                step("no-op", tool.push())
                continue
            for _ in range(3):
                step("no-op", tool.push())
            tool.change([7], 1)
            step("one edit", tool.push())
            step("pick it up", tool.pull())
            tool.change(range(100, 110), 2)
            tool.delete(range(200, 210))
            step("10 edited, 10 deleted", tool.push())
            step("pick them up", tool.pull())
            if entries <= 10_000:
                tool.check_equal()
            shutil.rmtree(tool.dir)


def network(box, rounds):
    syncs(box, 1_000, rounds)
    syncs(box, 10_000, rounds)


def latency(box, rounds):
    port = box.server.slow(box.memory, ROUND_TRIP)
    syncs(box, 1_000, rounds, line=port)


def photos(box, rounds):
    syncs(box, 200, rounds, photos=journal.PHOTOS, only=[*tools.ALL, tools.Waiting])


def huge(box, rounds):
    syncs(box, 100_000, 1, only=[tools.Espejo, tools.Locked])


def durable_clone(box, rounds):
    """The same clone onto the disk: Espejo syncs every file, restic none."""
    folder = source(box, 10_000)
    box.server.wipe()
    ready = []
    for tool in [tools.Espejo(box.memory, box.server), tools.Restic(box.memory, box.server)]:
        tool.reset(folder)
        box.memory.run(*tool.push(), cwd="/")
        ready.append(tool)
    for number in range(rounds):
        for tool in ready:
            to = fresh(box.disk.work / "clone")
            box.results.add("clone to disk, 10,000", tool.name, box.memory.measure(*tool.clone(to), cwd="/"))
    for tool in ready:
        shutil.rmtree(tool.dir)


def fresh(path, counter=itertools.count()):
    """A name nobody used. Nothing is removed before the end: ext4 is slow to make files for minutes after many were."""
    os.sync()
    return path.with_name(f"{path.name}-{next(counter)}")


def plainly(folder, to, in_flight=8):
    """The limit: every file written, synced and renamed, some at once."""
    files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    to.mkdir()

    def write(first):
        for name, content in files[first::in_flight]:
            file = os.open(to / f".{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(file, content)
            os.fsync(file)
            os.close(file)
            os.rename(to / f".{name}", to / name)

    begun = time.monotonic()
    threads = [threading.Thread(target=write, args=[first]) for first in range(in_flight)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    folder = os.open(to, os.O_RDONLY)
    os.fsync(folder)
    return machine.Sample(time.monotonic() - begun, 0)


def imports(box, rounds):
    folder, disk = source(box, 10_000), box.disk
    espejo = tools.Espejo(disk, box.server)
    espejo.setup()
    for number in range(rounds):
        box.results.add("import, 10,000", "8 at once", plainly(folder, fresh(disk.work / "plain")))
        vault = fresh(disk.work / "import")
        espejo.make(vault)
        command = espejo.program(vault, "import", "markdown", folder)
        box.results.add("import, 10,000", "espejo", disk.measure(*command))
        if shutil.which("gocryptfs"):
            sealed, mounted = fresh(disk.work / "gocryptfs"), fresh(disk.work / "mounted")
            sealed.mkdir()
            mounted.mkdir()
            (disk.work / "gocryptfs-password").write_text("correct horse battery staple\n")
            secret = ["-q", "-passfile", disk.work / "gocryptfs-password"]
            disk.run("gocryptfs", "-init", *secret, sealed)
            disk.run("gocryptfs", *secret, sealed, mounted)
            box.results.add("import, 10,000", "gocryptfs", disk.measure("cp", "-r", folder, mounted))
            disk.run("fusermount", "-u", mounted)
    # What is read, from the same vault.
    word = journal.WORDS[17]
    for number in range(rounds):
        for _ in range(3):
            box.results.add("list, 10,000", "ls -l", disk.measure("ls", "-l", folder))
            box.results.add("list, 10,000", "espejo", disk.measure(*espejo.program(vault, "list")))
            box.results.add("search, 10,000", "grep -r", disk.measure("grep", "-r", word, folder))
            box.results.add("search, 10,000", "espejo", disk.measure(*espejo.program(vault, "search", word)))
        box.results.add("show, 10,000", "espejo", disk.measure(*espejo.program(vault, "show", "@")))
        box.results.add("check, 10,000", "espejo", disk.measure(*espejo.program(vault, "check")))
        file, restored = disk.work / "backup.tar", fresh(disk.work / "restored")
        command = espejo.program(vault, "backup", "create", file)
        box.results.add("backup, 10,000", "espejo", disk.measure(*command))
        command = ["espejo", "restore", file, "--to", restored, *espejo.given]
        box.results.add("restore, 10,000", "espejo", disk.measure(*command))
        file.unlink()
        # The difference is one derivation.
        for tool, given in [("with a session", []), ("with the password", espejo.given)]:
            sample = disk.measure(*espejo.program(vault, "show", "@", *given))
            box.results.add("show, 10,000", tool, sample)


def adding(box, rounds):
    disk = box.disk
    espejo = tools.Espejo(disk, box.server)
    espejo.setup()
    vaults = {}
    for entries in [100, 10_000, 100_000]:
        vaults[entries] = fresh(disk.work / f"vault-{entries}")
        espejo.make(vaults[entries])
        disk.run(*espejo.program(vaults[entries], "import", "markdown", source(box, entries)))
        disk.run(*espejo.program(vaults[entries], "add", "-m", "the first after an import"))
    for number in range(2 * rounds):
        for entries, vault in vaults.items():
            command = espejo.program(vault, "add", "-m", f"one more, {number}")
            box.results.add(f"add, {entries:,}", "espejo", disk.measure(*command))
            box.results.add(f"list again, {entries:,}", "espejo", disk.measure(*espejo.program(vault, "list")))


def large(box, rounds):
    """On the disk, and in memory, where whoever syncs what it writes waits for nothing."""
    file = box.memory.work / "large"
    if not file.exists():
        journal.large_file(file, LARGE)
    for number in range(rounds):
        in_and_out(box, file, box.disk, "1 GiB {}")
        in_and_out(box, file, box.memory, "1 GiB {}, in memory")
    speed = box.disk.run("openssl", "speed", "-seconds", "1", "-evp", "aes-256-gcm", "-bytes", 16_384)
    box.results["openssl speed"] = speed.strip().splitlines()[-1]
    file.unlink()


def in_and_out(box, file, on, what):
    espejo = tools.Espejo(on, box.server)
    espejo.setup()
    key = on.work / "age-key"
    key.unlink(missing_ok=True)
    on.run("age-keygen", "-o", key)
    recipient = on.run("age-keygen", "-y", key).strip()
    out, sealed = on.work / "out", on.work / "large.age"
    vault = fresh(on.work / "large-vault")
    espejo.make(vault)
    command = espejo.program(vault, "add", "-m", "text", "-t", "title", "-a", file)
    box.results.add(what.format("in"), "espejo", on.measure(*command))
    command = f"age -r {recipient} -o {sealed} {file}"
    box.results.add(what.format("in"), "age", on.measure("sh", "-c", command))
    sealed.unlink()
    os.sync()
    command = f"{command} && sync {sealed}"
    box.results.add(what.format("in"), "age, synced", on.measure("sh", "-c", command))
    for tool, command in [
        ("espejo", espejo.program(vault, "show", "@", "--attachment", file.name, "-o", out)),
        ("age", ["age", "-d", "-i", key, "-o", out, sealed]),
        ("age, synced", ["sh", "-c", f"age -d -i {key} -o {out} {sealed} && sync {out}"]),
    ]:
        os.sync()
        box.results.add(what.format("out"), tool, on.measure(*command))
        on.run("cmp", out, file)
        out.unlink()
    sealed.unlink()
    shutil.rmtree(vault)


SCENARIOS = [network, latency, photos, durable_clone, imports, adding, large, huge]


class Box:
    """Everything a scenario needs."""

    def __init__(self, memory, disk):
        self.memory, self.disk = memory, disk
        self.memory.start_keyring()
        self.disk.env["DBUS_SESSION_BUS_ADDRESS"] = self.memory.env["DBUS_SESSION_BUS_ADDRESS"]
        self.server = machine.Server(self.memory)
        self.results = Results()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--disk", required=True, help="a directory on a disk where nothing was removed for five minutes, for several GB")
    parser.add_argument("--memory", default="/dev/shm/espejo-peers", help="one in memory, for several GB")
    parser.add_argument("--rclone", default="", help="the directory of the rclone to measure")
    parser.add_argument("--espejo", default=str(machine.ROOT / "target/release"), help="that of espejo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="some of " + ",".join(it.__name__ for it in SCENARIOS))
    parser.add_argument("--out", default=str(machine.ROOT / "target/peers.json"))
    options = parser.parse_args()
    options.path = f"{options.espejo}:{options.rclone}"
    wanted = options.only.split(",") if options.only else [it.__name__ for it in SCENARIOS]

    earlier = json.loads(Path(options.out).read_text()) if os.path.exists(options.out) else {}
    memory = machine.Machine(options.memory, options.path)
    server = None
    try:
        box = Box(memory, machine.Machine(options.disk, options.path))
        server = box.server
        for scenario in SCENARIOS:
            if scenario.__name__ in wanted:
                scenario(box, options.rounds)
                # What was measured again replaces what was measured before.
                measured = json.loads(json.dumps(box.results, default=vars))
                earlier = {**earlier, **measured, "about": machine.about()}
                machine.save(options.out, earlier)
    finally:
        if server:
            server.stop()
        memory.stop()
        for work in [options.memory]:
            shutil.rmtree(work, ignore_errors=True)
    try:
        report.write(machine.ROOT / "docs/performance.md", earlier)
    except KeyError as missing:
        print(f"docs/performance.md stays as it is: {missing} was not measured yet")


if __name__ == "__main__":
    main()
