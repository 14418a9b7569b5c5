"""Journals to measure with: the same bytes for the same numbers, on every machine."""

import random
from pathlib import Path

PHOTOS = 20
PHOTO_BYTES = 5_000_000
MIN_BYTES, MAX_BYTES = 200, 20_000

# Real prose compresses about as well as text over a few thousand words does.
SYLLABLES = "a ba ca da e fa ga i la ma na o pa ra sa ta u va lo re mi so ti do ne ka".split()


def vocabulary():
    dice = random.Random("words")
    words = {"".join(dice.choices(SYLLABLES, k=dice.randint(1, 4))) for _ in range(5_000)}
    return sorted(words)


WORDS = vocabulary()


def size(dice):
    """Log-normal, median 2.1 kB, cut to 200 B - 20 kB."""
    while True:
        wanted = int(dice.lognormvariate(7.65, 0.85))
        if MIN_BYTES <= wanted <= MAX_BYTES:
            return wanted


def page(number, edition=0):
    """Entry NUMBER as Markdown; another EDITION is another text of about the same length."""
    length = size(random.Random(f"size {number}"))
    dice = random.Random(f"page {number} {edition}")
    parts = [f"# Page {number}, edition {edition}\n"]
    so_far = len(parts[0])
    while so_far < length:
        line = " ".join(dice.choices(WORDS, k=12)) + ".\n"
        parts.append(line)
        so_far += len(line)
    return "".join(parts)


def name(number):
    return f"page-{number:06}.md"


def write(folder, entries, photos=0):
    """A flat folder, the best case for tools that list folder by folder."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    for number in range(entries):
        (folder / name(number)).write_text(page(number))
    for number in range(photos):
        photo(folder / f"photo-{number:02}.jpg", number)
        with open(folder / name(number), "a") as file:
            file.write(f"\n![](photo-{number:02}.jpg)\n")


def photo(path, number):
    path.write_bytes(random.Random(f"photo {number}").randbytes(PHOTO_BYTES))


def large_file(path, length):
    dice = random.Random("large")
    with open(path, "wb") as file:
        for start in range(0, length, 1 << 20):
            file.write(dice.randbytes(min(1 << 20, length - start)))
