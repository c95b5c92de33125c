"""The calls of OpenStack's driver for LXD (nova-lxd), in its order, through pylxd by the tree `/1.0/containers`.

LXD_DIR is the daemon's state directory; the arguments are the two files of a split image, a directory for logs, and an
interface of the host. The daemon has a pool and a root disk in the default profile, and no image. Ends with a line that tells
how many checks passed; the first wrong one ends it with a traceback.
"""

import os
import pathlib
import stat
import sys
import time

import pylxd
from pylxd.exceptions import LXDAPIException, NotFound

passed = 0
NAME = "instance-00000001"


def check(what, holds):
    global passed
    if not holds:
        raise AssertionError(what)
    passed += 1


def absent(what, call):
    try:
        call()
    except NotFound:
        check(what, True)
    except LXDAPIException as error:
        check(f"{what}: {error.response.status_code}", error.response.status_code == 404)
    else:
        check(f"{what} is there", False)


def eventually(what, holds):
    # An address and a console have no event to wait for.
    until = time.monotonic() + 20
    while not holds():
        check(f"{what} within 20 s", time.monotonic() < until)
        time.sleep(0.05)


def the_host(client):
    extensions = client.host_info["api_extensions"]
    check("extensions", {"storage", "id_map"} <= set(extensions))
    environment = client.host_info["environment"]
    check("the host", all(environment[key] for key in ("kernel_version", "server_version", "storage", "driver")))
    check("pools", [pool.name for pool in client.storage_pools.all()] != [])
    check("no containers", client.containers.all() == [])


def the_image(client, metadata, rootfs):
    absent("the image", lambda: client.images.get_by_alias("glance-id"))
    boundary, body = "abc", b""
    for name, file in (("metadata", metadata), ("rootfs", rootfs)):
        body += f"--{boundary}\r\nContent-Disposition: form-data; name={name}; filename={name};\r\n\r\n".encode()
        body += pathlib.Path(file).read_bytes() + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    response = client.api.images.post(data=body, headers=headers)
    operation = client.operations.get(response.json()["operation"])
    operation.wait()
    image = client.images.get(operation.metadata["fingerprint"])
    image.add_alias("glance-id", "")
    check("its alias", client.images.get_by_alias("glance-id").fingerprint == image.fingerprint)


def the_profile(client, logs):
    config = {
        "boot.autostart": "True",
        "limits.cpu": "1",
        "limits.memory": "128MB",
        "environment.product_name": "OpenStack Nova",
        "raw.lxc": f"lxc.console.logfile={logs}/console.log\n",
        "security.nesting": "True",
        "security.privileged": "False",
    }
    pool = client.storage_pools.all()[0].name
    devices = {"root": {"path": "/", "type": "disk", "pool": pool}}
    client.profiles.create(NAME, config, devices)
    check("the profile", client.profiles.get(NAME).config["security.nesting"] == "True")


def spawn(client, drive):
    absent("the container", lambda: client.containers.get(NAME))
    config = {"name": NAME, "profiles": [NAME], "source": {"type": "image", "alias": "glance-id"}}
    container = client.containers.create(config, wait=True)
    os.mkdir(drive, 0o755)
    pathlib.Path(drive, "meta_data.json").write_text("{}")
    container.devices["configdrive"] = {"path": "/config-drive", "source": drive, "type": "disk", "readonly": "True"}
    container.save(wait=True)
    container.start(wait=True)
    container = client.containers.get(NAME)
    check("codes of states", (container.status, container.status_code) == ("Running", 103))
    state = container.state()
    check("what it uses", state.memory["usage"] > 0 and state.pid > 0 and state.status_code == 103)
    check("the drive", container.execute(["cat", "/config-drive/meta_data.json"]).stdout == "{}")
    result = container.execute(["sh", "-c", "echo x > /config-drive/meta_data.json"])
    check("the drive is read-only", result.exit_code != 0)
    check("product", "product_name=OpenStack Nova" in container.execute(["env"]).stdout)
    check("listed", [one.name for one in client.containers.all()] == [NAME])


def the_console(client, logs):
    log = pathlib.Path(logs, "console.log")
    client.containers.get(NAME).execute(["sh", "-c", "echo said > /dev/console"])
    check("the log that was asked for", log.exists())
    eventually("what the console says", lambda: "said" in log.read_text())


def a_nic_of_the_host(client, interface):
    def inside():
        return client.containers.get(NAME).execute(["ls", "/sys/class/net"]).stdout.split()

    profile = client.profiles.get(NAME)
    profile.devices["tap1"] = {"nictype": "physical", "parent": interface, "hwaddr": "02:00:00:00:00:77", "type": "nic"}
    profile.save(wait=True)
    check("it is on the host no more", not pathlib.Path("/sys/class/net", interface).exists())
    check("it is inside", len(inside()) >= 2)
    profile = client.profiles.get(NAME)
    del profile.devices["tap1"]
    profile.save(wait=True)
    eventually("it comes back", lambda: pathlib.Path("/sys/class/net", interface).exists())


def a_volume(client, node):
    profile = client.profiles.get(NAME)
    kind = os.stat(node)
    profile.devices["vdb"] = {
        "path": "/dev/vdb",
        "type": "unix-char",
        "major": str(os.major(kind.st_rdev)),
        "minor": str(os.minor(kind.st_rdev)),
    }
    profile.save(wait=True)
    check("the node", stat.S_ISCHR(kind.st_mode))
    result = client.containers.get(NAME).execute(["sh", "-c", "[ -c /dev/vdb ]"])
    check("it is inside", result.exit_code == 0)
    profile = client.profiles.get(NAME)
    del profile.devices["vdb"]
    profile.save(wait=True)


def states(client):
    container = client.containers.get(NAME)
    container.freeze(wait=True)
    check("paused", client.containers.get(NAME).status_code == 110)
    container.unfreeze(wait=True)
    check("goes on", client.containers.get(NAME).status_code == 103)
    before = container.state().pid
    container.restart(force=True, wait=True)
    check("another life", client.containers.get(NAME).state().pid not in (0, before))
    container.stop(wait=True)
    check("off", client.containers.get(NAME).status_code == 102)
    container.start(wait=True)


def a_snapshot(client):
    container = client.containers.get(NAME)
    container.execute(["sh", "-c", "echo kept > /root/kept"])
    container.stop(wait=True)
    image = container.publish(wait=True)
    image = client.images.get(image.fingerprint)
    data = image.export()
    check("exported", sum(len(block) for block in iter(lambda: data.read(1 << 20), b"")) > 10_000)
    container.start(wait=True)
    image.delete(wait=True)
    absent("the image of the snapshot", lambda: client.images.get(image.fingerprint))


def rescue(client):
    container = client.containers.get(NAME)
    container.stop(wait=True)
    container.rename(f"{NAME}-rescue", wait=True)
    pool = client.storage_pools.all()[0].name
    devices = {"root": {"path": "/", "type": "disk", "pool": pool}}
    client.profiles.create(f"{NAME}-rescue", {"security.nesting": "True"}, devices)
    config = {"name": NAME, "profiles": [f"{NAME}-rescue"], "source": {"type": "image", "alias": "glance-id"}}
    client.containers.create(config, wait=True).start(wait=True)
    check("two", {one.name for one in client.containers.all()} == {NAME, f"{NAME}-rescue"})
    other = client.containers.get(NAME)
    other.stop(wait=True)
    other.delete(wait=True)
    client.profiles.get(f"{NAME}-rescue").delete()
    container = client.containers.get(f"{NAME}-rescue")
    container.rename(NAME, wait=True)
    container = client.containers.get(NAME)
    container.start(wait=True)
    check("its files", container.execute(["cat", "/root/kept"]).stdout == "kept\n")


def resize(client):
    profile = client.profiles.get(NAME)
    profile.config["limits.memory"] = "256MB"
    profile.save(wait=True)
    check("it has more", client.containers.get(NAME).expanded_config["limits.memory"] == "256MB")
    # As before a move to another host: it is down, and is described from what it says of itself.
    container = client.containers.get(NAME)
    container.stop(wait=True)
    check("what describes it", container.profiles == [NAME] and "configdrive" in container.devices)
    container.start(wait=True)


def destroy(client):
    container = client.containers.get(NAME)
    container.stop(wait=True)
    container.delete(wait=True)
    client.profiles.get(NAME).delete()
    absent("a deleted one", lambda: client.containers.get(NAME))
    absent("its profile", lambda: client.profiles.get(NAME))
    client.images.get_by_alias("glance-id").delete(wait=True)
    check("nothing is left", client.containers.all() == [] and client.images.all() == [])


def main():
    metadata, rootfs, logs, interface = sys.argv[1:]
    client = pylxd.Client()
    the_host(client)
    the_image(client, metadata, rootfs)
    the_profile(client, logs)
    spawn(client, os.path.join(logs, "drive"))
    the_console(client, logs)
    a_nic_of_the_host(client, interface)
    a_volume(client, "/dev/null")
    states(client)
    a_snapshot(client)
    rescue(client)
    resize(client)
    destroy(client)
    print(f"{passed} passed, 0 failed")


main()
