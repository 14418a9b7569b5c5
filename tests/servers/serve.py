#!/usr/bin/env python3
"""Runs one real WebDAV server on loopback, for as long as a test needs it.

    serve.py NAME --dir DIR [--tls] [--port PORT]

NAME is apache, nginx, lighttpd, rclone, wsgidav or sabre. Once the server
answers, one line of JSON on stdout says where it is; then this program waits
for the end of its stdin, or SIGTERM, and takes the server down with it.
README.md next to this file has the rest.
"""

import argparse
import base64
import ctypes
import hashlib
import http.client
import json
import os
import random
import secrets
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(
    os.environ.get("ESPEJO_TEST_CACHE") or HERE.parent.parent / "target/test-servers"
)
USER = "alice"
START_TIMEOUT = 20  # seconds
STOP_TIMEOUT = 5

# The servers live in sbin, which is not on everybody's PATH.
SEARCH_PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


class CannotStart(Exception):
    pass


class Site:
    """One server's directory: what it serves, and what it needs besides."""

    def __init__(self, directory, tls):
        self.dir = Path(os.path.abspath(directory))
        if set(str(self.dir)) & set("\"'\\$%\n"):
            raise CannotStart(f"quotes, \\, $ or % in the path {self.dir}")
        self.tls = tls
        self.port = None
        self.data = self.dir / "data"
        self.root = self.data / "dav"
        self.conf = self.dir / "conf"
        self.run = self.dir / "run"
        self.log = self.dir / "log"
        for folder in (self.data, self.root, self.conf, self.run, self.log):
            folder.mkdir(parents=True, exist_ok=True)
        self.error_log = self.log / "error.log"
        self.access_log = self.log / "access.log"
        self.output = self.log / "output.log"  # the server's stdout and stderr

        # A second start in the same directory keeps the password and the CA.
        self.password_file = self.dir / "password"
        if not self.password_file.exists():
            write_private(self.password_file, secrets.token_hex(16) + "\n")
        self.password = self.password_file.read_text().strip()

        # {SHA} is the one format that apache, nginx, lighttpd and rclone all
        # read and that costs next to nothing per request.
        digest = hashlib.sha1(self.password.encode()).digest()
        self.htpasswd = self.conf / "htpasswd"
        write_private(
            self.htpasswd, f"{USER}:{{SHA}}{base64.b64encode(digest).decode()}\n"
        )

        self.ca = self.conf / "ca.pem"
        self.cert = self.conf / "server.pem"
        self.key = self.conf / "server.key"
        if tls:
            make_certificates(self)

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/dav/"

    def write(self, name, text):
        path = self.conf / name
        write_private(path, text)
        return path


def write_private(path, text):
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
        f.write(text)


def program(name):
    found = shutil.which(name, path=SEARCH_PATH)
    if not found:
        raise CannotStart(f"{name} is not installed; run {HERE / 'install.sh'}")
    return found


def make_certificates(site):
    """A CA, and a server certificate that strict verifiers (webpki) accept."""
    config = site.write(
        "openssl.cnf",
        """\
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
""",
    )
    ca_key = site.conf / "ca.key"

    def request(subject, extensions, key, out, *more):
        command = [program("openssl"), "req", "-x509", "-config", config, "-sha256"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "30", "-subj", subject, "-extensions", extensions]
        command += ["-keyout", key, "-out", out, *more]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotStart(f"openssl: {done.stderr}")

    if not site.ca.exists():
        request("/CN=Espejo test CA", "ca", ca_key, site.ca)
    issuer = ("-CA", site.ca, "-CAkey", ca_key)
    request("/CN=127.0.0.1", "server", site.key, site.cert, *issuer)


# The servers. Each function writes the configuration for site.port and returns
# the commands to run, each as (arguments, extra environment).


def apache(site):
    modules = "mpm_event authn_core authn_file authz_core authz_user auth_basic"
    modules += " mime dir reqtimeout dav dav_fs" + (" ssl" if site.tls else "")
    load = "\n".join(
        f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so"
        for m in modules.split()
    )
    tls = f"""\
SSLEngine on
SSLCertificateFile "{site.cert}"
SSLCertificateKeyFile "{site.key}"
"""
    # All limits (LimitXMLRequestBody, DavDepthInfinity, ...) are the defaults.
    config = site.write(
        "apache.conf",
        f"""\
{load}
ServerRoot "{site.dir}"
ServerName 127.0.0.1
Listen 127.0.0.1:{site.port}
DefaultRuntimeDir "{site.run}"
PidFile "{site.run}/apache.pid"
ErrorLog "{site.error_log}"
LogFormat "\\"%r\\" %>s" requests
CustomLog "{site.access_log}" requests
TypesConfig {"/etc/mime.types" if os.path.exists("/etc/mime.types") else "/dev/null"}
StartServers 1
{tls if site.tls else ""}
DocumentRoot "{site.data}"
DavLockDB "{site.run}/DavLock"
<Directory />
    AllowOverride None
    Require all denied
</Directory>
<Directory "{site.data}">
    Dav On
    AuthType Basic
    AuthName espejo
    AuthUserFile "{site.htpasswd}"
    Require valid-user
</Directory>
""",
    )
    command = [program("apache2"), "-f", str(config), "-DFOREGROUND"]
    if os.geteuid() == 0:
        # Apache will not run as root, yet it must manage with whatever files
        # a test that is root puts into the data directory. So it runs as
        # www-data, with root's power over file permissions only.
        caps = "+dac_override,+fowner"
        unprivileged = [program("setpriv"), "--reuid", "www-data"]
        unprivileged += ["--regid", "www-data", "--clear-groups"]
        unprivileged += ["--inh-caps", caps, "--ambient-caps", caps]
        # Changing the user forgets what die_with_parent() asked for.
        unprivileged += ["--pdeathsig", "TERM", "--"]
        command = unprivileged + command
    return [(command, {})]


def nginx_config(site, location, modules=""):
    """What nginx needs in every case; LOCATION is the part for /dav/."""
    tls = f"""
        ssl_certificate "{site.cert}";
        ssl_certificate_key "{site.key}";
"""
    temporary = "\n".join(
        f'    {kind}_temp_path "{site.run}/{kind}";'
        for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    )
    return site.write(
        "nginx.conf",
        f"""\
{modules}
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 2;
pid "{site.run}/nginx.pid";
error_log "{site.error_log}";
events {{ }}
http {{
    log_format requests '"$request" $status';
    access_log "{site.access_log}" requests;
    default_type application/octet-stream;
    # The default is 1m, on which a journal's larger files fail with 413.
    client_max_body_size 64m;
{temporary}
    server {{
        listen 127.0.0.1:{site.port}{" ssl" if site.tls else ""};
        server_name 127.0.0.1 localhost;
        {tls if site.tls else ""}
        location /dav/ {{
{location}
        }}
    }}
}}
""",
    )


def nginx_command(site, config):
    # -e: the log until the configuration is read; else it is /var/log/nginx.
    return [program("nginx"), "-e", str(site.error_log), "-c", str(config)]


def nginx(site):
    config = nginx_config(
        site,
        f"""\
            root "{site.data}";
            auth_basic espejo;
            auth_basic_user_file "{site.htpasswd}";
            dav_methods PUT DELETE MKCOL COPY MOVE;
            dav_ext_methods PROPFIND OPTIONS;
""",
        modules="load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;",
    )
    return [(nginx_command(site, config), {})]


def sabre(site):
    socket_path = site.run / "fpm.sock"
    if len(str(socket_path)) > 107:
        raise CannotStart(f"too long for a socket's path: {socket_path}")
    socket_path.unlink(missing_ok=True)
    as_root = os.geteuid() == 0
    fpm = site.write(
        "fpm.conf",
        f"""\
[global]
error_log = {site.log}/fpm.log
pid = {site.run}/fpm.pid
daemonize = no
[www]
{"user = root" if as_root else ""}
{"group = root" if as_root else ""}
listen = {socket_path}
pm = static
pm.max_children = 4
catch_workers_output = yes
php_admin_value[error_log] = {site.log}/php.log
php_admin_flag[log_errors] = on
php_admin_value[sys_temp_dir] = {site.run}
""",
    )
    parameters = {
        "SCRIPT_FILENAME": HERE / "sabre" / "server.php",
        "SCRIPT_NAME": "/dav/",
        "ESPEJO_ROOT": site.root,
        "ESPEJO_USER": USER,
        "ESPEJO_PASSWORD_FILE": site.password_file,
    }
    parameters = "".join(
        f'            fastcgi_param {name} "{value}";\n'
        for name, value in parameters.items()
    )
    parameters += "".join(
        f"            fastcgi_param {name} ${name.lower()};\n"
        for name in (
            "REQUEST_METHOD REQUEST_URI QUERY_STRING CONTENT_TYPE CONTENT_LENGTH"
            " SERVER_PROTOCOL SERVER_NAME SERVER_PORT REMOTE_ADDR"
        ).split()
    )
    if site.tls:
        parameters += "            fastcgi_param HTTPS on;\n"
    config = nginx_config(
        site,
        f"""\
            fastcgi_pass "unix:{socket_path}";
            fastcgi_request_buffering on;
{parameters}""",
    )
    command = [php_fpm(), "-F", "-y", str(fpm)]
    return [
        (command + (["-R"] if as_root else []), {}),
        (nginx_command(site, config), {}),
    ]


def php_fpm():
    # Debian puts the version into the name: php-fpm8.2.
    found = sorted(Path("/usr/sbin").glob("php-fpm*"))
    return str(found[-1]) if found else program("php-fpm")


def lighttpd(site):
    tls = f"""\
server.modules += ("mod_openssl")
ssl.engine = "enable"
ssl.pemfile = "{site.cert}"
ssl.privkey = "{site.key}"
"""
    # The log goes through a pipe because lighttpd writes to a pipe at once,
    # and to a file only every few seconds.
    config = site.write(
        "lighttpd.conf",
        f"""\
server.modules = ("mod_auth", "mod_authn_file", "mod_webdav", "mod_accesslog")
server.bind = "127.0.0.1"
server.port = {site.port}
server.document-root = "{site.data}"
server.upload-dirs = ("{site.run}")
server.pid-file = "{site.run}/lighttpd.pid"
server.errorlog = "{site.error_log}"
# The default remembers sizes for a second, and so sends wrong lengths for
# files that tests change on disk.
server.stat-cache-engine = "disable"
accesslog.filename = "|exec cat >>'{site.access_log}'"
accesslog.format = "\\"%r\\" %>s"
mimetype.assign = ("" => "application/octet-stream")
auth.backend = "htpasswd"
auth.backend.htpasswd.userfile = "{site.htpasswd}"
auth.require = ("" => ("method" => "basic", "realm" => "espejo", "require" => "valid-user"))
webdav.activate = "enable"
{tls if site.tls else ""}
""",
    )
    return [([program("lighttpd"), "-D", "-f", str(config)], {})]


def rclone(site):
    site.access_log = site.log / "rclone.log"
    command = [program("rclone"), "serve", "webdav", str(site.root), "-vv"]
    command += ["--addr", f"127.0.0.1:{site.port}", "--baseurl", "/dav"]
    command += ["--log-file", str(site.access_log)]
    # Not RCLONE_PASS: with -vv it ends up in the log.
    command += ["--htpasswd", str(site.htpasswd)]
    if site.tls:
        command += ["--cert", str(site.cert), "--key", str(site.key)]
    environment = {
        "RCLONE_CONFIG": str(site.write("rclone.conf", "")),
        "RCLONE_CACHE_DIR": str(site.run),
        # The default is to remember each directory for 5 minutes, and so not
        # to see what tests do to the files on disk.
        "RCLONE_DIR_CACHE_TIME": os.environ.get("RCLONE_DIR_CACHE_TIME", "0s"),
    }
    return [(command, environment)]


def wsgidav(site):
    site.access_log = site.output
    command = CACHE / "venv/bin/wsgidav"
    if not command.exists():
        raise CannotStart(f"{command} is missing; run {HERE / 'install.sh'}")
    settings = {
        "host": "127.0.0.1",
        "port": site.port,
        "server": "cheroot",
        "provider_mapping": {"/dav": str(site.root)},
        "verbose": 3,
        "http_authenticator": {
            "accept_basic": True,
            "accept_digest": False,
            "default_to_digest": False,
        },
        "simple_dc": {"user_mapping": {"*": {USER: {"password": site.password}}}},
    }
    if site.tls:
        settings["ssl_adapter"] = "builtin"
        settings["ssl_certificate"] = str(site.cert)
        settings["ssl_private_key"] = str(site.key)
    config = site.write("wsgidav.json", json.dumps(settings, indent=4))
    return [([str(command), "--config", str(config)], {"PYTHONUNBUFFERED": "1"})]


SERVERS = {
    "apache": apache,
    "nginx": nginx,
    "lighttpd": lighttpd,
    "rclone": rclone,
    "wsgidav": wsgidav,
    "sabre": sabre,
}


# Starting and stopping.


def free_port():
    """A port nobody listens on, outside the range of outgoing connections."""
    for _ in range(100):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise CannotStart("found no free port")


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(parent):
    """In the child: SIGTERM when serve.py dies, even if by SIGKILL.

    SIGTERM, because on it nginx, apache and php-fpm end their workers too.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def start(site, commands):
    parent = os.getpid()
    children = []
    try:
        for arguments, environment in commands:
            with open(site.output, "ab") as output:
                children.append(
                    subprocess.Popen(
                        arguments,
                        cwd=site.dir,
                        env={**os.environ, "PATH": SEARCH_PATH, **environment},
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                        preexec_fn=lambda: die_with_parent(parent),
                    )
                )
    except BaseException:
        stop(children)
        raise
    return children


def stop(children):
    """Ends the children and whatever they started."""
    # First only the children themselves: it is on them to end their workers.
    for child in children:
        child.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT
    for child in children:
        try:
            child.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
    # Then whatever is left, after a last moment of its own (lighttpd's logger
    # only now sees the end of its input).
    while not reap_orphans():
        if time.monotonic() > deadline:
            for child in children:
                kill_group(child.pid)
        if time.monotonic() > deadline + 1:
            return
        time.sleep(0.01)


def kill_group(leader):
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def reap_orphans():
    """Whether no process is left below this one, see main()."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return False
    except ChildProcessError:
        return True


def answers(site):
    """Whether our server, knowing our password, answers a PROPFIND."""
    if site.tls:
        trust = ssl.create_default_context(cafile=site.ca)
        connection = http.client.HTTPSConnection(
            "127.0.0.1", site.port, timeout=5, context=trust
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=5)
    login = base64.b64encode(f"{USER}:{site.password}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Depth": "0"}
    try:
        connection.request("PROPFIND", "/dav/", headers=headers)
        return connection.getresponse().status == 207
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until_ready(site, children):
    """False if a child ended, which is also what a port in use leads to."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if any(child.poll() is not None for child in children):
            return False
        if answers(site):
            return True
        time.sleep(0.03)
    raise CannotStart(f"no answer from {site.url} within {START_TIMEOUT} s")


def start_until_ready(name, site, port):
    for _ in range(1 if port else 3):
        site.port = port or free_port()
        children = start(site, SERVERS[name](site))
        try:
            if wait_until_ready(site, children):
                return children
        except BaseException:
            stop(children)
            raise
        stop(children)
    raise CannotStart(f"{name} ended instead of serving {site.url}")


def wait_for_the_end(children):
    """Returns at the end of stdin; SIGTERM leaves by an exception."""
    ends = [os.pidfd_open(child.pid) for child in children]
    while True:
        ready, _, _ = select.select([sys.stdin, *ends], [], [])
        if any(end in ready for end in ends):
            raise CannotStart("the server ended before it was told to")
        if not os.read(sys.stdin.fileno(), 4096):
            return


def log_tails(site):
    for path in sorted(site.log.iterdir()):
        lines = path.read_text(errors="replace").splitlines()[-20:]
        if lines:
            print(f"--- {path}", *lines, sep="\n", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SERVERS)
    parser.add_argument("--dir", required=True, help="a directory of its own")
    parser.add_argument("--tls", action="store_true", help="serve https")
    parser.add_argument("--port", type=int, help="default: any free one")
    options = parser.parse_args()

    os.umask(0o022)
    # Processes whose parent ends before them become children of this one.
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))

    site = None
    children = []
    try:
        site = Site(options.dir, options.tls)
        children = start_until_ready(options.name, site, options.port)
        description = {
            "name": options.name,
            "url": site.url,
            "user": USER,
            "password_file": str(site.password_file),
            "root": str(site.root),
            "access_log": str(site.access_log),
            "ca_file": str(site.ca) if options.tls else None,
        }
        print(json.dumps(description), flush=True)
        wait_for_the_end(children)
    except CannotStart as problem:
        if site:
            log_tails(site)
        print(f"serve.py: {problem}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stop(children)
    return 0


if __name__ == "__main__":
    sys.exit(main())
