"""Espejo and its peers, each as the same few operations on a folder of pages."""

import filecmp
import shutil
from pathlib import Path

import journal


class Tool:
    def __init__(self, machine, server, port=None):
        self.machine, self.server, self.port = machine, server, port
        self.dir = machine.work / "devices" / self.name
        self.a, self.b = self.dir / "a", self.dir / "b"

    def reset(self, source):
        """Two devices, the first with the pages of SOURCE."""
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        shutil.copytree(source, self.a)

    def change(self, pages, edition):
        for number in pages:
            (self.a / journal.name(number)).write_text(journal.page(number, edition))

    def delete(self, pages):
        for number in pages:
            (self.a / journal.name(number)).unlink()

    def check_equal(self):
        """A row counts only if both devices have the same in the end."""
        same(self.a, self.b)


def same(a, b):
    names = sorted(path.name for path in a.iterdir())
    if names != sorted(path.name for path in b.iterdir()):
        raise SystemExit(f"{a} and {b} have different files")
    _, wrong, errors = filecmp.cmpfiles(a, b, names, shallow=False)
    if wrong or errors:
        raise SystemExit(f"{a} and {b} differ: {wrong[:3]} {errors[:3]}")


class Espejo(Tool):
    name = "espejo"
    collection = "espejo"
    # What opens the vault for whoever writes.
    keys = ()

    def setup(self):
        self.password = self.machine.work / "password"
        self.password.write_text("correct horse battery staple\n")
        self.given = ["--password-file", self.password]

    def program(self, vault, *arguments):
        return ["espejo", "--vault", vault, *arguments]

    def make(self, vault):
        new = ["--new-password-file", self.password, "--device-name", vault.name, "--no-recovery"]
        self.machine.run("espejo", "init", vault, *self.given, *new)
        self.unlock(vault)

    def unlock(self, vault):
        self.machine.run(*self.program(vault, "unlock", *self.given))

    def reset(self, source):
        self.setup()
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        self.make(self.a)
        self.machine.run(*self.program(self.a, "remote", "set", self.url()), *self.login())
        self.fill(source)
        self.ids = {}

    def fill(self, source):
        self.machine.run(*self.program(self.a, "import", "markdown", source), cwd="/")

    def url(self):
        return self.server.url(self.collection, self.port)

    def login(self):
        return ["--user", "alice", "--remote-password-file", self.server.site.password_file]

    def push(self):
        return self.program(self.a, "sync")

    def pull(self):
        return self.program(self.b, "sync")

    def clone(self, to=None):
        login = [*self.login(), *self.given, "--device-name", "b"]
        return ["espejo", "clone", self.url(), to or self.b, *login]

    def settle(self):
        """The second device is unlocked; the first one learns of it."""
        self.unlock(self.b)
        for vault in (self.b, self.a, self.b):
            self.machine.run(*self.program(vault, "sync"))
        import json

        listed = json.loads(self.machine.run(*self.program(self.a, "list", "--json")))["entries"]
        self.ids = {entry["title"]: entry["id"] for entry in listed}

    def id_of(self, number):
        return self.ids[Path(journal.name(number)).stem]

    def change(self, pages, edition):
        for number in pages:
            page = self.machine.work / "page.md"
            page.write_text(journal.page(number, edition))
            self.machine.run(*self.program(self.a, "edit", self.id_of(number), "--file", page, *self.keys))

    def delete(self, pages):
        self.machine.run(*self.program(self.a, "rm", "--yes", *map(self.id_of, pages), *self.keys))

    def check_equal(self):
        out = [self.dir / "out-a", self.dir / "out-b"]
        for vault, to in zip((self.a, self.b), out):
            self.machine.run(*self.program(vault, "export", to, *self.keys))
        same(*out)


class Locked(Espejo):
    """As on a machine that mirrors by itself: whoever writes gives the password, and no sync needs it."""

    name = "espejo, locked"
    collection = "espejo-locked"

    def settle(self):
        super().settle()
        self.keys = self.given
        for vault in (self.a, self.b):
            self.machine.run(*self.program(vault, "remote", "set", "--unattended"))
            self.machine.run(*self.program(vault, "sync"))
            self.machine.run(*self.program(vault, "lock"))
        for vault in (self.a, self.b, self.a):
            self.machine.run(*self.program(vault, "sync"))


class Waiting(Locked):
    """A machine that mirrors by itself and joined before there was anything: no key is derived when all of it comes."""

    name = "espejo, joined before"
    collection = "espejo-joined-before"

    def fill(self, source):
        self.machine.run(*self.push())
        self.machine.run(*super().clone())
        self.unlock(self.b)
        self.machine.run(*self.program(self.b, "remote", "set", "--unattended"))
        self.machine.run(*self.program(self.b, "lock"))
        super().fill(source)

    def clone(self, to=None):
        return self.pull()

    def settle(self):
        pass


FAST = ["--webdav-pacer-min-sleep", "0", "--transfers", "16", "--checkers", "16"]


class Rclone(Tool):
    name = "rclone crypt"
    remote = "crypt"

    def reset(self, source):
        super().reset(source)
        password = self.server.site.password
        obscured = self.machine.run("rclone", "obscure", password).strip()
        secret = self.machine.run("rclone", "obscure", "correct horse battery staple").strip()
        url = self.server.url("", self.port)
        self.config = self.dir / "rclone.conf"
        self.config.write_text(
            f"[dav]\ntype = webdav\nurl = {url}\nvendor = other\nuser = alice\npass = {obscured}\n"
            f"[crypt]\ntype = crypt\nremote = dav:{self.remote}\npassword = {secret}\n"
        )

    def program(self, *arguments):
        return ["rclone", "--config", self.config, *arguments, *FAST]

    def push(self):
        return self.program("sync", self.a, "crypt:")

    def pull(self):
        return self.program("sync", "crypt:", self.b)

    def clone(self, to=None):
        return self.program("sync", "crypt:", to or self.b)

    def settle(self):
        pass


class Bisync(Rclone):
    name = "rclone bisync"
    remote = "bisync"

    def bisync(self, side, *more):
        state = ["--workdir", self.dir / f"state-{side.name}"]
        # Without it, bisync refuses when the two sides changed much; no run here changes so much.
        return self.program("bisync", side, "crypt:", *state, *more)

    def reset(self, source):
        super().reset(source)
        self.b.mkdir()
        # It wants both sides to be there.
        self.machine.run(*self.program("mkdir", "crypt:"))
        self.first = True

    def push(self):
        first, self.first = self.first, False
        return self.bisync(self.a, *(["--resync"] if first else []))

    def pull(self):
        return self.bisync(self.b)

    def clone(self, to=None):
        return self.bisync(self.b, "--resync")


class Restic(Rclone):
    name = "restic"

    def reset(self, source):
        super().reset(source)
        (self.dir / "password").write_text("correct horse battery staple\n")
        self.machine.run(*self.restic("init"))

    def restic(self, *arguments):
        serve = "serve restic --stdio --webdav-pacer-min-sleep 0"
        options = ["-o", f"rclone.args={serve} --config {self.config}"]
        secret = ["--password-file", self.dir / "password", "--cache-dir", self.dir / "cache"]
        return ["restic", "-r", "rclone:dav:restic", *options, *secret, *arguments]

    def push(self):
        return self.restic("backup", self.a)

    def clone(self, to=None):
        return self.restic("restore", "latest", "--target", to or self.b)

    def pull(self):
        return self.clone()

    def check_equal(self):
        # It leaves what was deleted since where it restores twice.
        again = self.dir / "again"
        self.machine.run(*self.clone(again))
        same(self.a, Path(f"{again}{self.a}"))


ALL = [Espejo, Locked, Rclone, Bisync, Restic]
