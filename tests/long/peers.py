"""What the benchmarks beside this file share: the three daemons, and a table of what they took."""

import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BOUNDARY = "between"
FILES = "mkdir /srv/own; cd /srv/own; for i in $(seq {n}); do head -c 10240 /dev/urandom > f$i; done; sync"


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("bench")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(300)
        self.sock.connect(self.path)


class Daemon:
    """One of the three, started."""

    def __init__(self, name, top, command, variable):
        self.name, self.dir = name, os.path.join(top, name)
        os.makedirs(self.dir)
        self.log = open(self.dir + ".log", "w", encoding="utf-8")
        env = {**os.environ, variable: self.dir, "HOME": self.dir}
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        start_new_session=True)
        for _ in range(600):
            try:
                self.ask("GET", "/1.0")
                return
            except (OSError, http.client.HTTPException, AssertionError):
                time.sleep(0.1)
        sys.exit(f"{name} does not answer, see {self.dir}.log")

    def ask(self, method, path, body=None, headers=None):
        raw = body if isinstance(body, bytes) or hasattr(body, "__next__") else json.dumps(body) if body is not None else None
        connection = Unix(os.path.join(self.dir, "unix.socket"))
        connection.request(method, path, raw, headers or {})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        if answer["type"] == "async":
            operation = self.ask("GET", answer["operation"] + "/wait")
            assert operation["status_code"] == 200, (self.name, method, path, operation)
            return operation
        assert answer["type"] == "sync", (self.name, method, path, answer)
        return answer["metadata"]

    def try_ask(self, *asked):
        try:
            self.ask(*asked)
        except AssertionError:
            pass

    def exec(self, name, command):
        done = self.ask("POST", f"/1.0/instances/{name}/exec",
                        {"command": ["sh", "-c", command], "wait-for-websocket": False, "interactive": False})
        assert done["metadata"]["return"] == 0, (self.name, command, done)

    def state(self, name, action):
        self.ask("PUT", f"/1.0/instances/{name}/state", {"action": action, "force": True, "timeout": 60})

    def image(self, parts):
        return self.upload(multipart(parts))

    def upload(self, body):
        done = self.ask("POST", "/1.0/images", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        return done["metadata"]["fingerprint"]

    def container(self, name, image, pool, files):
        self.ask("POST", "/1.0/instances", {"name": name, "source": {"type": "image", "fingerprint": image}, "profiles": [],
                                            "devices": {"root": {"type": "disk", "path": "/", "pool": pool}}})
        self.state(name, "start")
        self.exec(name, FILES.format(n=files))

    def stop(self):
        for instance in self.ask("GET", "/1.0/instances?recursion=1"):
            if instance["status"] == "Running":
                self.state(instance["name"], "stop")
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def multipart(parts):
    """The body of a split image: parts are pairs of a name and a path."""
    body = b""
    for part, path in parts:
        with open(path, "rb") as file:
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{part}"; filename="{os.path.basename(path)}"\r\n'
            body += head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + file.read() + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def daemons(top, programs):
    """LXD, Incus and Warren, each started."""
    incusd = next(path for path in ("/usr/libexec/incus/incusd", "/usr/lib/incus/incusd") if os.path.exists(path))
    return [
        Daemon("lxd", top, ["lxd", "--group", "root"], "LXD_DIR"),
        Daemon("incus", top, [incusd, "--group", "root"], "INCUS_DIR"),
        Daemon("warren", top, [os.path.join(programs, "warrend"), "--group", "root"], "LXD_DIR"),
    ]


class Table:
    """Medians (lowest-highest) in milliseconds."""

    def __init__(self):
        self.rows = {}

    def time(self, row, who, work):
        begin = time.monotonic()
        result = work()
        self.rows.setdefault(row, {}).setdefault(who, []).append((time.monotonic() - begin) * 1000)
        return result

    def add(self, row, who, value):
        self.rows.setdefault(row, {}).setdefault(who, []).append(value)

    def show(self):
        columns = ["floor", "lxd", "incus", "warren"]
        print("| ms | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
        for row, cells in self.rows.items():
            line = []
            for who in columns:
                taken = cells.get(who)
                line.append("" if not taken else f"{statistics.median(taken):.1f} ({min(taken):.1f}-{max(taken):.1f})")
            print(f"| {row} | " + " | ".join(line) + " |")


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def in_namespace(name, main):
    """Runs main(scratch directory, arguments) in a mount namespace of its own, whose mounts end with it."""
    inside = "WARREN_BENCH_SCRATCH"
    if inside in os.environ:
        main(os.environ[inside], sys.argv[1:])
        return
    scratch = tempfile.mkdtemp(prefix=f"{name}-", dir="/var/tmp")
    os.chmod(scratch, 0o711)
    code = subprocess.call(["unshare", "-m", "--propagation", "private", sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]],
                           env={**os.environ, inside: scratch})
    shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(code)
