#!/usr/bin/env bash
# Installs what the tests need (Debian 12, as root): the WebDAV servers they run
# against, strace, the makers of the file systems they mount, a keyring, systemd, Nushell, and
# the Python packages that docs/recover.py and the check of the spelling need.
#
# Safe to run again and again: when nothing is missing it only looks, and ends
# in well under a second. Nothing is left running: the distribution's own
# services are neither started nor enabled, because serve.py starts its own
# instances with its own configuration.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${ESPEJO_TEST_CACHE:-$here/../../target/test-servers}
venv=$cache/venv

# apache2-bin has the program and all modules; the package apache2 would only
# add a service and /etc/apache2, which are not used here.
packages=(
    apache2-bin
    nginx libnginx-mod-http-dav-ext
    lighttpd lighttpd-mod-webdav lighttpd-mod-openssl
    rclone
    php-fpm php-cli php-sabre-dav
    openssl strace e2fsprogs xfsprogs btrfs-progs
    dbus-daemon dbus-bin gnome-keyring libsecret-tools systemd syncthing faketime iproute2
)
wsgidav=4.4.0
cheroot=11.1.2
cryptography=48.0.0
typos=1.52.0
nushell=0.115.1

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Node's own packages bring npm, too, and do not get along with Debian's.
command -v npm >/dev/null || packages+=(npm)

missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "install.sh: not root, and these packages are missing: ${missing[*]}" >&2
        exit 1
    fi

    # Debian starts a service when its package is installed, unless
    # policy-rc.d says no. An existing policy is somebody's choice: keep it.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi

    services=(nginx lighttpd php8.2-fpm)
    fresh=()
    for service in "${services[@]}"; do
        installed "$service" || fresh+=("$service")
    done

    export DEBIAN_FRONTEND=noninteractive
    echo "install.sh: installing ${missing[*]}" >&2
    apt_install() {
        apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >&2
    }
    # The package lists may be absent or stale.
    apt_install || { apt-get update -qq >&2 && apt_install; }

    # Where systemd rules, new services must not start at the next boot either.
    if [ -d /run/systemd/system ]; then
        for service in "${fresh[@]}"; do
            systemctl disable --now "$service" >/dev/null 2>&1 || true
        done
    fi
fi

# The stamp names the versions, so that a change above is noticed.
stamp=$venv/espejo-$wsgidav-$cheroot-$cryptography-$typos
if [ ! -e "$stamp" ] || [ ! -x "$venv/bin/wsgidav" ]; then
    echo "install.sh: installing wsgidav $wsgidav, cryptography $cryptography and typos $typos into $venv" >&2
    mkdir -p "$cache"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        "wsgidav==$wsgidav" "cheroot==$cheroot" "cryptography==$cryptography" \
        "typos==$typos" >&2
    touch "$stamp"
fi

# Debian has no Nushell.
nu=$cache/nushell/node_modules/@nushell/linux-x64
if ! grep -qs "\"version\": \"$nushell\"" "$nu/package.json"; then
    echo "install.sh: installing nushell $nushell into $cache/nushell" >&2
    npm install --silent --no-audit --no-fund --prefix "$cache/nushell" "@nushell/linux-x64@$nushell" >&2
fi
