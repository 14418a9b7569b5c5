#!/usr/bin/env python3
"""Reads an Espejo vault or mirror without Espejo: the last resort, and the proof that docs/format.md is enough.

    python3 docs/recover.py SOURCE OUT --password-file F | --recovery-words-file F

SOURCE is a vault directory, a mirror directory, a copy of either, or a backup file. OUT is made, and
filled as `espejo export OUT` would: a Markdown file for every entry that is there, its attachments in `_resources/`, and in
`conflicts/` the texts that lost a conflict nobody has settled. Needs Python 3.9 and the package `cryptography`. The numbers (§3) are the sections of docs/format.md.

Exit status: 0 everything read, 1 something was damaged or missing (it is named; the rest was written), 2 nothing
could be done.
"""

import argparse
import hashlib
import hmac
import json
import os
import re
import stat
import struct
import sys
import tempfile
import unicodedata
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple, Optional

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    sys.exit("recover.py needs the Python package cryptography: python3 -m pip install cryptography")

MAGIC = b"\x89ESJ\r\n\x1a\n"
HEADER_LEN = 36
CHUNK_LEN, TAG_LEN = 16_384, 16
MAX_OBJECT, MAX_SEGMENT, MAX_KEY_FILE, MAX_MARKER = 16 << 20, 64 << 20, 8_192, 4_096
MAX_INDEX, BLOCK = 256 << 20, 512
MAX_TEXT = 32 << 20
PART_LEN = (4 << 20) - 8
SCHEMA = 2
VERSION, PART, FEED, BACKUP, KEY_FILE, PACK = 1, 2, 4, 5, 6, 8
LABELS = {VERSION: b"entry", PART: b"attachment", FEED: b"feed", BACKUP: b"backup"}
LIVE, TOMBSTONE = 1, 2
# What a backup may hold (§15), and how long it may be.
MARKER, INDEX = "espejo.json", "backup-index"
IN_BACKUP = {
    MARKER: MAX_MARKER,
    r"keys/[a-z0-9-]{1,64}\.key": MAX_KEY_FILE,
    r"objects/([0-9a-f]{2})/\1[0-9a-f]{62}": MAX_OBJECT,
    INDEX: MAX_INDEX,
}
# The moments that are written as dates (§16): 0001-01-01 until 9999-12-30T22:00.
FIRST_DATE, NO_DATE = -62_135_596_800_000, 253_402_207_200_000


class Refused(Exception):
    """A file or object that must not be used, and why."""


class Newer(Refused):
    """Written by a program that knows more than this one."""


class WrongSecret(Refused):
    """The key file is intact and does not open with what was given."""


# Fields (top of format.md)


class Fields:
    """Takes fields off the front of a byte string."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Refused("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> int:
        return struct.unpack(">" + code, self.take(struct.calcsize(">" + code)))[0]

    def u8(self) -> int:
        return self.number("B")

    def u32(self) -> int:
        return self.number("I")

    def u64(self) -> int:
        return self.number("Q")

    def i64(self) -> int:
        return self.number("q")

    def bytes(self) -> bytes:
        return self.take(self.u32())

    def text(self) -> str:
        try:
            return self.bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("text that is not UTF-8") from None

    def list(self, item) -> list:
        return [item(self) for _ in range(self.u32())]

    def zeros(self, count: int):
        if any(self.take(count)):
            raise Refused("reserved bytes are not zero")

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self):
        if self.at != len(self.data):
            raise Refused("it goes on after its end")


# Sealing (§3)


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def unseal(key: bytes, context: bytes, sealed: bytes) -> bytes:
    if len(sealed) < 56:
        raise Refused("the seal is cut short")
    salt, commitment = sealed[:24], sealed[24:56]
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    first = hmac.new(key, info + b"\1", hashlib.sha512).digest()
    second = hmac.new(key, first + info + b"\2", hashlib.sha512).digest()
    derived = first + second
    aes, base = AESGCM(derived[:32]), derived[32:44]
    if not hmac.compare_digest(commitment, derived[44:76]):
        raise Refused("the seal does not belong to this key (tampered with, or of another vault)")
    plain, last = [], None
    for index, at in enumerate(range(56, len(sealed), CHUNK_LEN + TAG_LEN)):
        last = sealed[at : at + CHUNK_LEN + TAG_LEN]
        counter = int.from_bytes(base[4:], "big") ^ index
        if len(last) < TAG_LEN:
            raise Refused("the seal is cut short")
        try:
            plain.append(aes.decrypt(base[:4] + counter.to_bytes(8, "big"), last, b""))
        except InvalidTag:
            raise Refused(f"chunk {index} was altered") from None
    if last is None or len(last) == CHUNK_LEN + TAG_LEN:
        raise Refused("the seal is cut short")
    return b"".join(plain)


# The frame (§4)


class Header(NamedTuple):
    kind: int
    schema: int
    epoch: int
    vault: bytes


def read_header(data: bytes) -> Header:
    fields = Fields(data)
    if data[:8] != MAGIC:
        raise Refused("not a file of Espejo's")
    fields.take(8)
    form, suite, kind, flags = fields.take(4)
    if form != 1 or flags != 0 or kind not in (1, 2, 3, 4, 5, 7) or suite != 1:
        raise Refused("written by a newer program")
    return Header(kind, fields.u32(), fields.u32(), fields.take(16))


def padded_len(content_len: int) -> int:
    length = content_len + 8
    if length <= 3_988:
        return 3_988
    exponent = length.bit_length() - 1
    unit = 1 << (exponent - exponent.bit_length())
    return -(-length // unit) * unit


class Keys(NamedTuple):
    """The vault's id and its master keys by epoch (§5)."""

    vault: bytes
    masters: dict

    def derive(self, label: bytes, epoch: int) -> bytes:
        if epoch not in self.masters:
            raise Refused(f"sealed under key epoch {epoch}, which the key file does not have")
        info = b"espejo/v1/" + label + b"\0" + self.vault + struct.pack(">I", epoch)
        return hmac_sha256(self.masters[epoch], info + b"\1")


def open_file(keys: Keys, kind: int, data: bytes):
    """The header and the content of a sealed file that must be of this kind."""
    header = read_header(data)
    if header.vault != keys.vault:
        raise Refused("it belongs to another vault")
    if header.kind != kind:
        raise Refused("another kind of file")
    padded = unseal(keys.derive(LABELS[kind], header.epoch), data[:HEADER_LEN], data[HEADER_LEN:])
    length = Fields(padded).u64()
    if len(padded) != padded_len(length) or any(padded[8 + length :]):
        raise Refused("wrong padding")
    return header, padded[8 : 8 + length]


# The key file (§6)


class Slot(NamedTuple):
    is_password: bool
    iterations: int
    salt: bytes
    made_in: int
    head: bytes
    sealed: bytes


def read_slot(fields: Fields) -> Slot:
    head = fields.data[fields.at : fields.at + 64]
    kind = fields.take(4)
    iterations, second, third = fields.u32(), fields.u32(), fields.u32()
    salt = fields.take(32)
    fields.i64()
    sealed_len, made_in = fields.u32(), fields.u32()
    sealed = fields.take(sealed_len)
    is_password = kind == b"\1\1\0\0"
    if second or third or not (is_password or (kind == b"\2\0\0\0" and iterations == 0)):
        raise Refused("written by a newer program")
    if is_password and not 600_000 <= iterations <= 20_000_000:
        raise Refused(f"{iterations} rounds of key derivation are not between 600,000 and 20,000,000")
    return Slot(is_password, iterations, salt, made_in, head, sealed)


class KeyFile(NamedTuple):
    generation: int
    epoch: int
    vault: bytes
    slots: list
    body: bytes
    mac: bytes


def read_key_file(data: bytes) -> KeyFile:
    if not 168 <= len(data) <= MAX_KEY_FILE or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise Refused("the key file is damaged")
    fields = Fields(data[:-32])
    if fields.take(8) != MAGIC:
        raise Refused("not a file of Espejo's")
    if fields.take(4) != bytes([1, 1, KEY_FILE, 0]):
        raise Refused("written by a newer program")
    generation, epoch, _min_epoch = fields.u32(), fields.u32(), fields.u32()
    vault = fields.take(16)
    fields.i64()
    fields.take(16)
    count = fields.u8()
    fields.zeros(7)
    if generation == 0 or epoch == 0 or not 1 <= count <= 8:
        raise Refused("the key file is malformed")
    slots = [read_slot(fields) for _ in range(count)]
    if any(slot.made_in > generation for slot in slots):
        raise Refused("the key file is malformed")
    body = fields.data[: fields.at]
    mac = fields.take(32)
    fields.take(32)
    fields.end()
    return KeyFile(generation, epoch, vault, slots, body, mac)


class Secret(NamedTuple):
    is_password: bool
    value: bytes


def unlock(key_file: KeyFile, secret: Secret) -> Keys:
    for slot in key_file.slots:
        if slot.is_password != secret.is_password:
            continue
        if slot.is_password:
            key = hashlib.pbkdf2_hmac("sha256", secret.value, slot.salt, slot.iterations, 32)
        else:
            key = hmac_sha256(hmac_sha256(slot.salt, secret.value), b"espejo/v1/recovery\1")
        try:
            opened = unseal(key, b"espejo/v1/slot\0" + key_file.vault + slot.head, slot.sealed)
        except Refused:
            continue
        fields = Fields(opened)
        keys = Keys(key_file.vault, dict(fields.list(lambda f: (f.u32(), f.take(32)))))
        fields.end()
        mac = hmac_sha256(keys.derive(b"keyfile-mac", key_file.epoch), key_file.body)
        if not hmac.compare_digest(mac, key_file.mac):
            raise Refused("the key file was tampered with")
        return keys
    raise WrongSecret("this does not open the key file")


def secret_from_words(text: str) -> bytes:
    words = text.lower().split()
    listed = Path(__file__).with_name("bip39-english.txt").read_text(encoding="ascii").split()
    numbers = {word: number for number, word in enumerate(listed)}
    unknown = [position for position, word in enumerate(words, 1) if word not in numbers]
    if unknown or len(words) != 24:
        raise Refused(f"{len(words)} of 24 recovery words; not in the list: words number {unknown}")
    bits = 0
    for word in words:
        bits = bits << 11 | numbers[word]
    secret = (bits >> 8).to_bytes(32, "big")
    if hashlib.sha256(secret).digest()[0] != bits & 0xFF:
        raise Refused("these are not recovery words: one of them is wrong, or their order")
    return secret


# Versions (§7, §9)


class Version(NamedTuple):
    kind: int
    entry: bytes
    id: bytes
    device: bytes
    updated_at: int
    seen: dict
    without: frozenset

    def order(self):
        return (self.updated_at, self.device, self.id)

    def supersedes(self, other: "Version") -> bool:
        newest = self.seen.get(other.device)
        covered = newest is not None and other.updated_at <= newest
        return covered and (other.device, other.updated_at) not in self.without


def read_dot(fields: Fields):
    return fields.take(16), fields.i64()


def is_ascending(items: list) -> bool:
    return all(a < b for a, b in zip(items, items[1:]))


def read_version(fields: Fields) -> Version:
    kind = fields.u8()
    if kind not in (LIVE, TOMBSTONE):
        raise Refused("neither live nor a tombstone")
    entry, version = fields.take(16), fields.take(16)
    device, updated_at = read_dot(fields)
    seen, without = fields.list(read_dot), fields.list(read_dot)
    if not is_ascending([device for device, _ in seen]) or not is_ascending(without):
        raise Refused("a context out of order")
    return Version(kind, entry, version, device, updated_at, dict(seen), frozenset(without))


def resolve(versions: list):
    """The current version and the losers of an open conflict."""
    by_id = {version.id: version for version in versions}
    newest_first = sorted(by_id.values(), key=Version.order, reverse=True)
    current = newest_first[0]
    losers = [
        version
        for version in newest_first[1:]
        if not any(other.supersedes(version) for other in newest_first)
        and not (version.kind == current.kind == TOMBSTONE)
    ]
    return current, losers


def without_doubles(pairs: list) -> dict:
    if len(dict(pairs)) != len(pairs):
        raise Refused("a doubled field")
    return dict(pairs)


def not_a_number(_):
    raise Refused("not a whole number")


def check_fields(value, **kinds):
    """Refuses anything but an object with exactly these fields of these kinds."""
    if type(value) is not dict or set(value) != set(kinds):
        raise Refused("missing or unknown fields")
    for name, kind in kinds.items():
        if type(value[name]) not in kind:
            raise Refused(f"{name} is of another kind")


def check_blob(blob):
    check_fields(blob, parts=(list,))
    for part in blob["parts"]:
        check_fields(part, object=(str,), len=(int,))
        if not is_object_name(part["object"]) or not 0 <= part["len"] <= PART_LEN:
            raise Refused("a malformed part")


def read_document(schema: int, data: bytes) -> dict:
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=without_doubles,
            parse_float=not_a_number,
            parse_constant=not_a_number,
        )
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise Refused("its document is not JSON") from None
    if schema == 1:
        document = from_first_schema(document)
    elif schema != SCHEMA:
        raise Refused(f"schema {schema} is not known")
    check_fields(
        document, title=(str,), created=(int,), tags=(list,), media_type=(str,), body=(str, dict), attachments=(list,)
    )
    if not -(2**63) <= document["created"] < 2**63 or any(type(tag) is not str for tag in document["tags"]):
        raise Refused("a malformed date or tag")
    if type(document["body"]) is dict:
        check_blob(document["body"])
    for attachment in document["attachments"]:
        check_fields(attachment, name=(str,), media_type=(str,), blob=(dict,))
        check_blob(attachment["blob"])
    return document


def from_first_schema(document: dict) -> dict:
    """The same in schema 2."""
    check_fields(document, title=(str,), body=(str,), tags=(list,), created=(int,), updated=(int,))
    if not -(2**63) <= document["updated"] < 2**63 or any(type(tag) is not str for tag in document["tags"]):
        raise Refused("a malformed date or tag")
    kept = {name: document[name] for name in ("title", "body", "created")}
    return {**kept, "tags": list(dict.fromkeys(document["tags"])), "media_type": "text/markdown", "attachments": []}


def is_object_name(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


# Feeds (§10)


def read_row(fields: Fields):
    """The object and its version, if it is one."""
    name = fields.take(32).hex()
    length, _schema, _epoch = fields.u32(), fields.u32(), fields.u32()
    version = None
    if fields.data[fields.at : fields.at + 1] == b"\0":
        fields.take(1)
    else:
        version = read_version(fields)
    return name, length, version, fields.u32(), fields.u64()


class Announcement(NamedTuple):
    device_name: str
    rows: list
    released: list
    buried: list


def is_buried_by_us(keys: Keys, device: bytes, number: int, buried: bytes, fields: Fields) -> bool:
    """Whether the deletions that are told without an object were told by a holder of all the keys."""
    try:
        epoch, mac = fields.u32(), fields.take(32)
        message = b"espejo/v1/burial\0" + device + number.to_bytes(8, "big") + buried
        return hmac.compare_digest(mac, hmac_sha256(keys.derive(b"burial", epoch), message))
    except Refused:
        return False


def read_announcement(keys: Keys, device: bytes, data: bytes):
    """Its number, the tip before it, and what it says. Files are told by device, batch and name."""
    fields = Fields(data)
    number, previous, _written_at = fields.u64(), fields.take(32), fields.i64()
    device_name, _program, _key_file = fields.text(), fields.text(), fields.text()
    fields.list(lambda f: (f.take(16), f.u64(), f.take(32)))
    files = fields.list(lambda f: (f.u32(), f.take(32), f.u64()))
    rows = fields.list(read_row)
    for _name, length, _version, file, offset in rows:
        if file >= len(files) or offset + length > files[file][2]:
            raise Refused("a row outside its file")
    rows = [(name, version, (device, *files[file][:2])) for name, _length, version, file, _offset in rows]
    released, buried = [], []
    if fields.at < len(data):
        released = fields.list(lambda f: (device, f.u32(), f.take(32)))
        start = fields.at
        buried = fields.list(read_version)
        listed = data[start : fields.at]
        fields.list(lambda f: (f.take(16), f.u64()))
        if any(version.kind != TOMBSTONE for version in buried):
            raise Refused("something buried that is no tombstone")
        if buried and not is_buried_by_us(keys, device, number, listed, fields):
            buried = []
    return number, previous, Announcement(device_name, rows, released, buried)


def read_segment(keys: Keys, file_name: str, data: bytes) -> list:
    """Every announcement of a segment."""
    device, span, digits = file_name.split(".")
    if hashlib.sha256(data).hexdigest()[:16] != digits:
        raise Refused("damaged (its bytes are not those its name promises)")
    _, content = open_file(keys, FEED, data)
    fields = Fields(content)
    device_id = fields.take(16)
    encoded = fields.list(Fields.bytes)
    fields.end()
    announcements, numbers, tip = [], [], None
    for each in encoded:
        number, previous, announcement = read_announcement(keys, device_id, each)
        if number == 0 or (number == 1 and any(previous)):
            raise Refused("a feed that begins wrongly")
        if numbers and (number != numbers[-1] + 1 or previous != tip):
            raise Refused("a broken chain")
        tip = hashlib.sha256(b"espejo/v1/feed-tip\0" + device_id + each).digest()
        numbers.append(number)
        announcements.append(announcement)
    if not numbers or (device_id.hex(), span) != (device, f"{numbers[0]}-{numbers[-1]}"):
        raise Refused("not the segment its name promises")
    return announcements


def is_segment_name(name: str) -> bool:
    parts = name.split(".")
    return len(parts) == 3 and len(parts[0]) == 32 and "-" in parts[1] and len(parts[2]) == 16


# The source


class Place(NamedTuple):
    """Where an object's bytes are: a file, or a stretch of it."""

    path: Path
    offset: int
    length: int


class Opened(NamedTuple):
    version: Version
    epoch: int
    schema: int
    name: str
    document: Optional[dict]

    def preference(self):
        """Of several objects of one version the greatest that can be read is used; of equal ones the smallest name."""
        is_readable = self.document is not None or self.version.kind == TOMBSTONE
        return (is_readable, self.epoch, self.schema, [-ord(digit) for digit in self.name])


class Source:
    """Everything intact below a directory."""

    def __init__(self, root: Path, keys: Keys, report):
        self.root, self.keys, self.report = root, keys, report
        self.parts, self.opened, self.damaged, self.buried = {}, {}, set(), []
        for path in walk(root / "objects"):
            self.read_stored_file(path)

    def read_stored_file(self, path: Path):
        if not is_object_name(path.name):
            self.report.note(path, "not an object's name; left out")
            return
        try:
            data = read_regular(path, MAX_OBJECT)
            intact = hashlib.sha256(data).hexdigest() == path.name
            if data[:12] == MAGIC + bytes([1, 0, PACK, 0]):
                self.read_pack(path, data, intact)
            elif intact:
                self.read_object(path.name, Place(path, 0, len(data)), data)
            else:
                raise Refused("damaged (its bytes are not those its name promises)")
        except (Refused, OSError) as problem:
            self.damaged.add(path.name)
            self.report.damage(path, problem)

    def read_pack(self, path: Path, data: bytes, intact: bool):
        fields = Fields(data)
        fields.take(12)
        rows = fields.list(lambda f: (f.take(32).hex(), f.u32()))
        for name, length in rows:
            place = Place(path, fields.at, length)
            stored = fields.take(length)
            try:
                if hashlib.sha256(stored).hexdigest() != name:
                    raise Refused("damaged")
                self.read_object(name, place, stored)
            except Refused as problem:
                self.damaged.add(name)
                self.report.damage(path, f"object {name}: {problem}")
        fields.end()
        if not intact:
            raise Refused("damaged (its bytes are not those its name promises); what is intact in it was used")

    def read_object(self, name: str, place: Place, data: bytes):
        """Opens an object whose bytes match its name, and remembers what it is."""
        kind = read_header(data).kind
        if kind == PART:
            open_part(self.keys, data)
            self.parts[name] = place
            return
        header, content = open_file(self.keys, VERSION, data)
        fields = Fields(content)
        version = read_version(fields)
        rest, document = fields.rest(), None
        if version.kind == TOMBSTONE and rest:
            raise Refused("a tombstone with content")
        if version.kind == LIVE and header.schema <= SCHEMA:
            document = read_document(header.schema, rest)
        self.opened[name] = Opened(version, header.epoch, header.schema, name, document)

    def read_part(self, part: dict) -> bytes:
        place = self.parts.get(part["object"])
        if place is None:
            raise Refused(f"part {part['object']} is missing or damaged")
        data = read_regular(place.path, MAX_OBJECT)[place.offset : place.offset + place.length]
        if hashlib.sha256(data).hexdigest() != part["object"]:
            raise Refused(f"part {part['object']} changed while it was read")
        content = open_part(self.keys, data)
        if len(content) != part["len"]:
            raise Refused(f"part {part['object']} has another length than its entry says")
        return content

    def entries(self) -> dict:
        """Versions by entry, and of each version the object to read."""
        entries = {}
        for opened in self.opened.values():
            versions = entries.setdefault(opened.version.entry, {})
            best = versions.get(opened.version.id)
            if best is None or best.preference() < opened.preference():
                versions[opened.version.id] = opened
        # A deletion that is told by the feeds alone counts as one that lies here.
        for version in self.buried:
            versions = entries.setdefault(version.entry, {})
            versions.setdefault(version.id, Opened(version, 0, 0, "", None))
        return entries

    def check_feeds(self):
        """Reports what the feeds announced and nobody finds here, and learns which deletions need no object."""
        announced, released = [], set()
        for directory in (self.root / "feeds", self.root / "local" / "feeds"):
            for path in walk(directory):
                if not is_segment_name(path.name):
                    continue
                try:
                    for it in read_segment(self.keys, path.name, read_regular(path, MAX_SEGMENT)):
                        announced += [(name, it.device_name, version, file) for name, version, file in it.rows]
                        released.update(it.released)
                        self.buried += it.buried
                except (Refused, OSError) as problem:
                    self.report.damage(path, problem)
        # What was in released files was needed by nobody.
        missing = {name: (device, version) for name, device, version, file in announced if file not in released}
        for name in missing.keys() - self.opened.keys() - self.parts.keys() - self.damaged:
            device, version = missing[name]
            what = f"a version of entry {version.entry.hex()}" if version else "a part"
            self.report.damage(f"object {name}", f"{what}, announced by {device!r}, is not here")


def open_part(keys: Keys, data: bytes) -> bytes:
    _, content = open_file(keys, PART, data)
    if len(content) > PART_LEN:
        raise Refused("too long for a part")
    return content


def walk(directory: Path) -> list:
    """Every file below a directory, in order. Links are not followed, hidden files are not Espejo's."""
    found = []
    for parent, directories, files in os.walk(directory, followlinks=False):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
    return found


def read_regular(path: Path, max_len: int) -> bytes:
    """A whole regular file. A link, a pipe or a device in its place is refused, not waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Refused("not a regular file")
        data = file.read(max_len + 1)
    if len(data) > max_len:
        raise Refused("too long")
    return data


def read_marker(data: bytes) -> bytes:
    """The vault's id (§2)."""
    try:
        marker = json.loads(data)
        form, vault = marker["espejo"], marker["vault"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("the marker is damaged") from None
    if type(form) is int and form > 1:
        raise Newer("this vault needs a newer program")
    if type(vault) is not str or len(vault) != 32 or not set(vault) <= set("0123456789abcdef"):
        raise Refused("the marker is damaged")
    return bytes.fromhex(vault)


def find_keys(root: Path, secret: Secret, report) -> Keys:
    """Unlocks the newest key file that opens."""
    vault = None
    try:
        vault = read_marker(read_regular(root / "espejo.json", MAX_MARKER))
    except Newer:
        raise
    except (Refused, OSError) as problem:
        report.damage(root / "espejo.json", problem)
    found = []
    for path in walk(root / "keys") + [root / "local" / "key"]:
        try:
            found.append((path, read_key_file(read_regular(path, MAX_KEY_FILE))))
        except FileNotFoundError:
            pass
        except (Refused, OSError) as problem:
            report.damage(path, problem)
    found = [(path, key_file) for path, key_file in found if vault in (None, key_file.vault)]
    found.sort(key=lambda each: each[1].generation, reverse=True)
    for path, key_file in found:
        try:
            keys = unlock(key_file, secret)
        except WrongSecret:
            continue
        if key_file.generation != found[0][1].generation:
            report.note(path, "an older key file opens; newer ones do not")
        return keys
    raise WrongSecret("this does not open the key file" if found else f"no usable key file in {root / 'keys'}")


# The output


class Report:
    """Tells what is wrong as soon as it is known, and counts it."""

    def __init__(self):
        self.damages = 0

    def damage(self, what, problem):
        self.damages += 1
        self.note(what, problem)

    @staticmethod
    def note(what, problem):
        # Text out of a vault must not reach the terminal as control characters.
        line = f"{what}: {problem}"
        print("".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)


def slug(text: str) -> str:
    """Letters and digits of ASCII in lower case, whatever stands between them as one hyphen (format.md 16)."""
    out = ""
    for c in unicodedata.normalize("NFD", text):
        if unicodedata.category(c).startswith("M"):
            continue
        if c.isascii() and c.isalnum():
            out += c.lower()
        elif out and not out.endswith("-"):
            out += "-"
    return out[:60].rstrip("-")


def file_name(name: str, used: list) -> str:
    """A file name made from what an attachment is called: never a path, never hidden, never one used before."""
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem, ending = name, ""
    stem, ending = slug(stem) or "attachment", slug(ending).replace("-", "")[:10]
    chosen, count = stem, 1
    while (chosen := chosen + (f".{ending}" if ending else "")) in used:
        count += 1
        chosen = f"{stem}-{count}"
    used.append(chosen)
    return chosen


def to_json(value) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


OWN_FIELDS = ("espejo_id", "title", "created", "updated", "tags", "media_type", "body_file", "attachments")


def split_front(text: str):
    """The names of the fields above a text, their lines, and the rest; none if there is no front matter (format.md 16)."""
    if not text.startswith("---\n"):
        return None
    names, lines, at = [], "", 4
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        line = text[at:end]
        if line == "---\n":
            return names, lines, text[end:]
        lines, at = lines + line, end
        if len(lines.encode()) > 65536 or not line.endswith("\n") or line.endswith("\r\n"):
            return None
        name, colon, value = line.partition(":")
        is_name = name and name[0] not in " \t-#[]{},\"'&*!|>%@`" and all(unicodedata.category(c) != "Cc" for c in name)
        if colon and is_name and value[0] in " \n":
            names.append(name)
        elif not names or line[0] not in " \t-#\n]}":
            return None
    return None


def link_name(name: str) -> str:
    plain = "-._~"
    return "".join(c if c.isascii() and (c.isalnum() or c in plain) else "".join(f"%{b:02X}" for b in c.encode()) for c in name)


def render(head: dict, body: str) -> str:
    """A document: the head and the body, whose links lead to files (format.md 16)."""
    attachments = head.get("attachments", [])
    for it in attachments:
        if it["file"]:
            body = body.replace(f"](attachment:{link_name(it['name'])})", f"]({it['file']})")
    lines = "".join(f"{key}: {to_json(value)}\n" for key, value in head.items())
    front = split_front(body)
    if front and front[0] and not any(name in OWN_FIELDS for name in front[0]):
        document = f"---\n{lines}{front[1]}---\n\n{front[2]}"
    else:
        document = f"---\n{lines}---\n\n{body}"
    links = ""
    for it in attachments:
        if it["file"] and f"]({it['file']})" not in body:
            name = it["name"].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
            links += f"{'!' if it['media_type'].startswith('image/') else ''}[{name}]({it['file']})\n"
    return document + (f"\n\n<!-- attachments -->\n{links}" if links else "")


def when(ms: int) -> str:
    if not FIRST_DATE <= ms < NO_DATE:
        return f"{ms} ms since 1970"
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Output:
    def __init__(self, root: Path, source: Source, report: Report):
        self.root, self.source, self.report = root, source, report
        self.entries = self.conflicts = 0

    def write_all(self):
        shown = []
        for entry, versions in sorted(self.source.entries().items()):
            current, losers = resolve([opened.version for opened in versions.values()])
            lost = [versions[loser.id] for loser in losers if loser.kind == LIVE]
            if current.kind == LIVE or lost:
                shown.append((entry.hex(), versions[current.id], lost))
        alike = Counter(entry[:8] for entry, _, _ in shown)
        for entry, current, lost in shown:
            tail = entry[:8] if alike[entry[:8]] == 1 else entry
            if current.version.kind == LIVE:
                self.entries += self.write_version(current, tail, "", "")
            for loser in lost:
                self.conflicts += self.write_version(loser, f"{tail}-{loser.version.id.hex()[:8]}", "conflicts/", "../")

    def write_version(self, opened: Opened, tail: str, directory: str, up: str) -> bool:
        """Writes a document, and beside it what does not fit into it. True if the text could be written."""
        document, version = opened.document, opened.version
        if document is None:
            self.report.damage(f"entry {version.entry.hex()}", "needs a newer program")
            return False
        resources, used = f"_resources/{tail}", []

        def placed(name: str, blob: dict) -> Optional[str]:
            file = self.write_blob(blob, resources, file_name(name, used), opened)
            return file and up + file

        body, in_file = document["body"], {}
        if type(body) is not str:
            body = self.read_text(body) if document["media_type"].startswith("text/") else None
            if body is None:
                body, in_file = "", {"body_file": placed("body", document["body"])}
        head = {
            "espejo_id": version.entry.hex(),
            "title": document["title"],
            "created": when(document["created"]),
            "updated": when(version.updated_at),
            "tags": document["tags"],
            "media_type": document["media_type"],
            **in_file,
        }
        attachments = [
            {"name": it["name"], "media_type": it["media_type"], "file": placed(it["name"], it["blob"])}
            for it in document["attachments"]
        ]
        if attachments:
            head["attachments"] = attachments
        created = when(document["created"])[:10]
        day = created if created[4] == "-" and created[0].isdigit() else ""
        name = "-".join(part for part in (day, slug(document["title"]), tail) if part)
        try:
            self.write(self.root / f"{directory}{name}.md", [render(head, body).encode()])
            return True
        except Refused as problem:
            self.report.damage(f"entry {version.entry.hex()}, {name}.md", problem)
            return False

    def read_text(self, blob: dict) -> Optional[str]:
        if sum(part["len"] for part in blob["parts"]) > MAX_TEXT:
            return None
        try:
            return b"".join(self.source.read_part(part) for part in blob["parts"]).decode()
        except (Refused, UnicodeDecodeError):
            return None

    def write_blob(self, blob: dict, directory: str, file: str, opened: Opened) -> Optional[str]:
        """Writes a blob part by part; gives its path below the output, or none if a part is damaged."""
        path = self.root / directory / file
        try:
            self.write(path, (self.source.read_part(part) for part in blob["parts"]))
            return f"{directory}/{file}"
        except Refused as problem:
            self.report.damage(f"entry {opened.version.entry.hex()}, {file}", problem)
            return None

    @staticmethod
    def write(path: Path, pieces):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The directory is new and ours, and no other name in it ends like this.
        unfinished = path.with_name(path.name + "~")
        try:
            with open(unfinished, "xb") as file:
                for piece in pieces:
                    file.write(piece)
            if path.exists():
                raise Refused("another one has this name")
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)


# Backups (§15)


def read_tar_header(block: bytes):
    """The path and the length a header states; none if it is no header of a file that may be in a backup."""
    if block[257:263] != b"ustar\0" or block[156:157] != b"0":
        return None
    sums = block[:148] + b" " * 8 + block[156:]
    try:
        if sum(sums) != int(block[148:156].strip(b"\0 "), 8):
            return None
        path, length = block[:100].rstrip(b"\0").decode("ascii"), int(block[124:135], 8)
    except ValueError:
        return None
    return (path, length) if may_be_in_backup(path, length) else None


def may_be_in_backup(path: str, length: int) -> bool:
    return any(re.fullmatch(pattern, path) and 0 <= length <= longest for pattern, longest in IN_BACKUP.items())


def tar_len(length: int) -> int:
    return BLOCK + -(-length // BLOCK) * BLOCK


def read_index(keys: Keys, data: bytes) -> list:
    """Path, length and SHA-256 of every file in a backup."""
    _, content = open_file(keys, BACKUP, data)
    fields = Fields(content)
    fields.i64()
    fields.take(16)
    fields.list(lambda f: (f.take(16), f.text()))
    fields.text()
    files = fields.list(lambda f: (f.text(), f.u64(), f.take(32)))
    fields.end()
    if not is_ascending([path for path, _, _ in files]) or not all(may_be_in_backup(*file[:2]) for file in files):
        raise Refused("it names what cannot be in a backup")
    return files


class Backup:
    """A backup, or what is left of one: its files are looked for at every block, since any of them may be damaged."""

    def __init__(self, path: Path):
        self.file = open(path, "rb")
        self.found = {}
        while len(block := self.file.read(BLOCK)) == BLOCK:
            header = read_tar_header(block)
            if header:
                self.found.setdefault(header[0], []).append((self.file.tell(), header[1]))
        if not self.found:
            raise Refused(f"{path} is no backup, or nothing is left of it")

    def read_at(self, offset: int, length: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(length)

    def copies(self, path: str) -> list:
        return [self.read_at(*place) for place in self.found.get(path, [])]

    def unpack(self, to: Path):
        """Writes every file that is whole: one that is not never takes the place of one that is."""
        for path in self.found:
            for data in self.copies(path) if path != INDEX else []:
                if is_whole(path, data):
                    write_below(to, path, data)

    def check(self, to: Path, keys: Keys, report):
        """Names what is missing or damaged, by the index if that opens, and takes what only lost its header."""
        whole = {path for path in self.found if any(is_whole(path, data) for data in self.copies(path))}
        try:
            index = (self.copies(INDEX) or [b""])[0]
            files = read_index(keys, index)
        except Refused as problem:
            report.damage(INDEX, f"{problem}; what else was in this backup cannot be told")
            for path in sorted(self.found.keys() - whole - {INDEX}):
                report.damage(path, "damaged, or cut short")
            return
        at = tar_len(len(index))
        # The key files are there once more, after everything else.
        for path, length, digest in files + [each for each in files if each[0].startswith("keys/")]:
            in_place = self.read_at(at + BLOCK, length)
            at += tar_len(length)
            if hashlib.sha256(in_place).digest() == digest:
                if path not in whole:
                    write_below(to, path, in_place)
            elif path.startswith("keys/"):
                report.damage(path, "one of its two copies is damaged, missing or not in its place")
            elif not any(hashlib.sha256(data).digest() == digest for data in self.copies(path)):
                report.damage(path, "damaged or missing")


def is_whole(path: str, data: bytes) -> bool:
    """Whether a file is what its place says, as far as that can be told without the keys."""
    try:
        if path == MARKER:
            read_marker(data)
        elif path.startswith("keys/"):
            read_key_file(data)
        else:
            return hashlib.sha256(data).hexdigest() == path[-64:]
    except Newer:
        return True
    except Refused:
        return False
    return True


def write_below(root: Path, path: str, data: bytes):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)


def read_secret(arguments) -> Secret:
    path = arguments.password_file or arguments.recovery_words_file
    text = Path(path).read_text(encoding="utf-8")
    if arguments.recovery_words_file:
        return Secret(False, secret_from_words(text))
    password = unicodedata.normalize("NFC", text[:-1] if text.endswith("\n") else text)
    return Secret(True, password.encode("utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Reads an Espejo vault or mirror without Espejo.")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a vault or mirror directory, or a backup")
    parser.add_argument("out", metavar="OUT", type=Path, help="a directory to make, or an empty one")
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--password-file", metavar="F", help="the password, on the first line")
    secret.add_argument("--recovery-words-file", metavar="F", help="the 24 recovery words")
    arguments = parser.parse_args()
    report = Report()
    os.umask(0o077)
    unpacked = tempfile.TemporaryDirectory()
    try:
        backup = Backup(arguments.source) if arguments.source.is_file() else None
        if backup:
            arguments.source = Path(unpacked.name)
            backup.unpack(arguments.source)
        keys = find_keys(arguments.source, read_secret(arguments), report)
        if backup:
            backup.check(arguments.source, keys, report)
        arguments.out.mkdir(parents=True, exist_ok=True)
        if any(arguments.out.iterdir()):
            raise Refused(f"{arguments.out} is not empty")
    except (Refused, OSError, UnicodeDecodeError) as problem:
        Report.note("recover.py", problem)
        return 2
    source = Source(arguments.source, keys, report)
    source.check_feeds()
    output = Output(arguments.out, source, report)
    output.write_all()
    print(f"{output.entries} entries, {output.conflicts} losers of conflicts, {report.damages} problems")
    return 1 if report.damages else 0


if __name__ == "__main__":
    sys.exit(main())
