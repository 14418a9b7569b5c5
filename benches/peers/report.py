"""The tables of docs/performance.md, made of what was measured."""

from statistics import median

BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->\n"
BISYNC, RCLONE, LOCKED, WAITING = "rclone bisync", "rclone crypt", "espejo, locked", "espejo, joined before"


class Measured:
    def __init__(self, results):
        self.results = results

    def samples(self, scenario, tool="espejo"):
        return self.results[scenario][tool]

    def time(self, scenario, tool="espejo"):
        return median(sample["seconds"] for sample in self.samples(scenario, tool))

    def most(self, field, scenario, tool="espejo"):
        return max(sample[field] for sample in self.samples(scenario, tool))

    def mib(self, scenario, tool="espejo"):
        return self.most("rss_kib", scenario, tool) / 1024

    def ratio(self, scenario, *others, of="espejo"):
        """The time against the fastest of others."""
        return self.time(scenario, of) / min(self.time(scenario, other) for other in others)


def bars(m):
    """(what, what was measured, the bar, whether it is met), each over the runs of one go."""

    def at_most(what, value, limit, unit=""):
        rows.append((what, f"{value:.3g}{unit}", f"≤ {limit:.3g}{unit}", value <= limit))

    def requests(what, scenario, limit):
        at_most(f"{what}: requests", m.most("requests", scenario), limit)

    def against(what, scenario, limit, *others, of="espejo"):
        at_most(f"{what}: time, of that of {' or '.join(others)}", m.ratio(scenario, *others, of=of), limit, " ×")

    def against_both(what, scenario, limit, *others):
        against(what, scenario, limit, *others)
        against(f"{what}, while locked", scenario, limit, *others, of=LOCKED)

    rows = []
    ten = "10,000"
    nothing = f"no-op, {ten}"
    requests("No-op", nothing, 1)
    at_most("No-op: up", m.most("up", nothing) / 1e3, 4, " kB")
    at_most("No-op: down", m.most("down", nothing) / 1e3, 4, " kB")
    against_both("No-op", nothing, 1 / 15, RCLONE, BISYNC)
    at_most("No-op: time, of that of 1,000 entries", m.time(nothing) / m.time("no-op, 1,000"), 1.5, " ×")
    at_most("No-op: memory", m.mib(nothing), 24, " MiB")
    against("No-op, 1,000 entries, 50 ms round trip", "no-op, 1,000 + 50 ms", 0.6, RCLONE)
    edit = f"one edit, {ten}"
    requests("One edit", edit, 4)
    # Every page measured here is sealed in at most 5 kB.
    at_most("One edit: up, with the entry itself", m.most("up", edit) / 1e3, 16 + 4, " kB")
    at_most("One edit: down", m.most("down", edit) / 1e3, 16, " kB")
    against_both("One edit", edit, 1 / 10, RCLONE)
    requests("Picked up by the other device", f"pick it up, {ten}", 3)
    against_both("Picked up by the other device", f"pick it up, {ten}", 1 / 10, RCLONE)
    requests("10 deleted, 10 edited", f"10 edited, 10 deleted, {ten}", 5)
    against_both("10 deleted, 10 edited", f"10 edited, 10 deleted, {ten}", 1 / 8, RCLONE)
    push = f"first push, {ten}"
    requests("First push", push, 40)
    against("First push", push, 0.5, "restic")
    against("First push", push, 0.25, RCLONE)
    against("First push of 1,000, 50 ms round trip", "first push, 1,000 + 50 ms", 0.3, "restic")
    requests("Clone", f"clone, {ten}", 50)
    against("Clone, in memory", f"clone, {ten}", 0.8, "restic")
    against("Clone to disk, every file synced", f"clone to disk, {ten}", 0.8, "restic")
    mixed = "200 + 20 photos"
    photos = "200 entries and 20 photos"
    against(f"{photos}, first push", f"first push, {mixed}", 0.8, RCLONE)
    against(f"{photos}, clone with a derivation", f"clone, {mixed}", 0.8, RCLONE)
    against(f"{photos}, all of it, by a device that mirrors by itself", f"clone, {mixed}", 0.8, RCLONE, of=WAITING)
    taken = f"import, {ten}"
    against("Import, every file synced", taken, 1.3, "8 at once")
    against("Import", taken, 1 / 1.5, "gocryptfs")
    against("1 GiB in, in memory", "1 GiB in, in memory", 1 / 0.85, "age")
    against("1 GiB out, verified, in memory", "1 GiB out, in memory", 1, "age")
    against("1 GiB in, synced", "1 GiB in", 1 / 0.85, "age, synced")
    against("1 GiB in, synced, where age's is not", "1 GiB in", 1 / 0.85, "age")
    against("1 GiB out, verified and synced", "1 GiB out", 1, "age, synced")
    against("1 GiB out, verified and synced, where age's is not", "1 GiB out", 1, "age")
    at_most("1 GiB in: memory", m.mib("1 GiB in"), 48, " MiB")
    at_most("1 GiB out: memory", m.mib("1 GiB out"), 48, " MiB")
    against("List", f"list, {ten}", 1, "ls -l")
    at_most(
        "List of 100,000: time, of that of 10,000",
        m.time("list again, 100,000") / m.time(f"list again, {ten}"), 10, " ×",
    )
    against("Search", f"search, {ten}", 4, "grep -r")
    at_most("Search: memory", m.mib(f"search, {ten}"), 64, " MiB")
    at_most("Add at 100,000: time, of that at 100", m.time("add, 100,000") / m.time("add, 100"), 1.5, " ×")
    all_of = ["first push", "clone", "no-op", "one edit", "pick it up", "10 edited, 10 deleted", "pick them up"]
    ours = ["espejo", LOCKED]
    peak = max(m.mib(f"{what}, {ten}", tool) for what in all_of for tool in ours)
    peer = max(m.mib(f"{what}, {ten}", RCLONE) for what in all_of)
    at_most("Any sync: memory, of rclone's", peak / peer, 1 / 3, " ×")
    peak = max(m.mib(f"{what}, 100,000", tool) for what in all_of for tool in ours)
    at_most("Any sync of 100,000: memory", peak, 128, " MiB")
    return rows


def size(count):
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def scenario_rows(m, scenario):
    for tool, samples in m.results[scenario].items():
        seconds = [sample["seconds"] for sample in samples]
        row = [scenario, tool, f"{median(seconds):.3f} ({min(seconds):.3f}–{max(seconds):.3f})", str(len(seconds))]
        network = m.most("requests", scenario, tool)
        row += [str(network), size(m.most("up", scenario, tool)), size(m.most("down", scenario, tool))] if network else ["", "", ""]
        peak = m.mib(scenario, tool)
        yield row + [f"{peak:.0f}" if peak else ""]


def text(results):
    m, about = Measured(results), results["about"]
    derivation = m.time("show, 10,000", "with the password") - m.time("show, 10,000", "with a session")
    lines = [
        f"Measured on {about['date']} at `{about['commit']}`: {about['cpu']}, {about['memory']}, Linux "
        f"{about['kernel']}. One key derivation took {derivation * 1e3:.0f} ms; the clones and the restore have it in"
        f" their time. `openssl speed -evp aes-256-gcm`, 16 KiB: {results['openssl speed'].split()[-1]} B/s.",
        "",
        "| bar | measured | bar | |", "|---|---|---|---|",
    ]
    for what, value, limit, met in bars(m):
        lines.append(f"| {what} | {value} | {limit} | {'met' if met else '**not met**'} |")
    lines += ["", "| scenario | tool | s, median (min–max) | runs | requests | up | down | MiB |", "|---|---|---|---|---|---|---|---|"]
    for scenario in results:
        if scenario not in ("about", "openssl speed"):
            lines += ["| " + " | ".join(row) + " |" for row in scenario_rows(m, scenario)]
    return "\n".join(lines) + "\n"


def write(path, results):
    """Replaces what was measured, and leaves what people wrote."""
    page = path.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    path.write_text(before + BEGIN + text(results) + END + after)
