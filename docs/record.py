#!/usr/bin/env python3
"""Runs the program and writes what it prints into README.md, between the markers.

    cargo build --release && python3 docs/record.py

The README shows nothing that was typed by hand.
"""
import os
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/espejo"

SESSION = """
espejo init journal --device-name laptop
cd journal
espejo add -m "Rain again. Stayed in and read about lighthouses." -T diary
espejo add ~/eclipse.md -t "The eclipse" -a ~/eclipse.png
espejo list
espejo remote set ~/nas/journal
espejo sync
espejo sync
espejo clone ~/nas/journal ~/desktop --device-name desktop
espejo --vault ~/desktop edit @-1 -T +weather -m "Rain again. Stayed in and read about lighthouses all day."
espejo --vault ~/desktop sync
espejo sync
espejo log @-1
espejo backup auto --every 1d
espejo status
espejo export ~/pages
"""


def block(text: str, name: str, content: str) -> str:
    pattern = rf"(<!-- {name} -->\n```\n).*?(```\n<!-- /{name} -->)"
    return re.sub(pattern, lambda m: m[1] + content.rstrip("\n") + "\n" + m[2], text, flags=re.S)


def session() -> str:
    with tempfile.TemporaryDirectory() as home:
        home_path = pathlib.Path(home)
        (home_path / "password").write_text("six random words make a password\n")
        (home_path / "eclipse.md").write_text("Two minutes of night at noon. Nobody spoke.\n")
        (home_path / "eclipse.png").write_bytes((ROOT / "fixtures/journal/eclipse.png").read_bytes())
        (home_path / "bin").mkdir()
        (home_path / "bin/espejo").symlink_to(PROGRAM)
        env = {
            "HOME": home,
            "PATH": f"{home}/bin:/usr/bin:/bin",
            "ESPEJO_PASSWORD_FILE": f"{home}/password",
            "LANG": "C.UTF-8",
        }
        shown = []
        cwd = home_path
        for line in SESSION.strip().splitlines():
            shown.append(f"$ {line}")
            if line.startswith("cd "):
                cwd = cwd / line[3:]
                continue
            result = subprocess.run(
                ["bash", "-c", line], cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            if result.returncode != 0:
                raise SystemExit(f"{line}: exit {result.returncode}\n{result.stdout}")
            shown.append(result.stdout.rstrip("\n").replace(home, "~"))
        return "\n".join(shown)


def main() -> None:
    demo = subprocess.run([PROGRAM, "demo"], text=True, check=True, stdout=subprocess.PIPE).stdout
    readme = ROOT / "README.md"
    text = block(readme.read_text(), "demo", demo)
    readme.write_text(block(text, "session", session()))


if __name__ == "__main__":
    os.umask(0o077)
    main()
