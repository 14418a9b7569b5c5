#!/usr/bin/env python3
"""What the owner of a mirror can find out: reads nothing but the mirror, knows docs/format.md, has no key.

Prints what `espejo privacy --json` says of the same mirror.
"""
import json
import pathlib
import struct
import sys
from datetime import datetime, timezone

HEADER = struct.Struct(">8sBBBBII16s")
VERSION, PART, KEY_FILE, PACK = 1, 2, 6, 8


def objects_in(file):
    """The sealed objects of a file: itself, or what the table of a pack names."""
    if file[10] != PACK:
        return [file]
    (count,) = struct.unpack_from(">I", file, 12)
    offset, objects = 16 + 36 * count, []
    for row in range(count):
        (length,) = struct.unpack_from(">I", file, 16 + 36 * row + 32)
        objects.append(file[offset:offset + length])
        offset += length
    assert offset == len(file)
    return objects


def key_file(path):
    file = path.read_bytes()
    assert file[10] == KEY_FILE
    slots, offset, recovery = file[64], 72, False
    for _ in range(slots):
        recovery |= file[offset] == 2
        (length,) = struct.unpack_from(">I", file, offset + 56)
        offset += 64 + length
    created = datetime.fromtimestamp(struct.unpack_from(">q", file, 40)[0] // 1000, timezone.utc)
    return {
        "generation": struct.unpack_from(">I", file, 12)[0],
        "created": created.strftime("%Y-%m-%dT%H:%M:%S"),
        "device": file[48:64].hex(),
        "recovery": recovery,
    }


def main(mirror):
    mirror = pathlib.Path(mirror)
    devices = {}
    for path in (mirror / "feeds").iterdir():
        device, numbers, _ = path.name.split(".")
        seen = devices.setdefault(device, {"id": device, "announcements": 0, "files": 0})
        seen["announcements"] = max(seen["announcements"], int(numbers.split("-")[1]))
    found = {"files": 0, "packs": 0, "bytes": 0, "versions": 0, "parts": 0}
    lengths, schemas, epochs = set(), set(), set()
    for path in (mirror / "objects").rglob("*"):
        if path.is_dir():
            continue
        file = path.read_bytes()
        found["files"] += 1
        found["packs"] += file[10] == PACK
        found["bytes"] += len(file)
        writer = path.parent.name.split("-")[0]
        next(seen for device, seen in devices.items() if device.startswith(writer))["files"] += 1
        for sealed in objects_in(file):
            _, _, _, kind, _, schema, epoch, _ = HEADER.unpack_from(sealed)
            assert kind in (VERSION, PART)
            found["versions" if kind == VERSION else "parts"] += 1
            lengths.add(len(sealed)), schemas.add(schema), epochs.add(epoch)
    found["vault_id"] = json.loads((mirror / "espejo.json").read_text())["vault"]
    found["devices"] = [devices[device] for device in sorted(devices)]
    found["lengths"] = len(lengths)
    found["schemas"], found["epochs"] = sorted(schemas), sorted(epochs)
    keys = [key_file(path) for path in (mirror / "keys").iterdir()]
    found["key_files"] = sorted(keys, key=lambda key: key["generation"])
    json.dump(found, sys.stdout)


main(sys.argv[1])
