"""What programs that use pylxd do, against the daemon whose state directory is LXD_DIR.

The daemon has a pool, a root disk in the default profile, and the image "bb". Ends with a line that tells how many checks
passed; the first wrong one ends it with a traceback.
"""

import hashlib
import sys
import time

import pylxd
from pylxd.exceptions import LXDAPIException, NotFound

passed = 0


def check(what, holds):
    global passed
    if not holds:
        raise AssertionError(what)
    passed += 1


def refused(what, status, call):
    try:
        call()
    except NotFound:
        check(what, status == 404)
    except LXDAPIException as error:
        check(f"{what}: {error.response.status_code} {error}", error.response.status_code == status)
    else:
        check(f"{what}: it was not refused", False)


def the_server(client):
    check("trusted", client.trusted)
    check("extensions", client.has_api_extension("instances") and not client.has_api_extension("nonsense"))
    check("environment", client.host_info["environment"]["server"] == "lxd")
    check("api version", client.api.get().json()["metadata"]["api_version"] == "1.0")


def instances(client):
    check("none yet", client.instances.all() == [])
    check("absent", not client.instances.exists("p1"))
    refused("get of an absent one", 404, lambda: client.instances.get("p1"))
    config = {"name": "p1", "source": {"type": "image", "alias": "bb"}, "config": {"user.a": "b"}}
    one = client.instances.create(config, wait=True)
    check("name and status", (one.name, one.status) == ("p1", "Stopped"))
    refused("a second one of the name", 409, lambda: client.instances.create(config, wait=True))
    one.start(wait=True)
    check("running", client.instances.get("p1").status == "Running")
    check("state", one.state().pid > 0 and one.state().status == "Running")
    result = one.execute(["sh", "-c", "echo out; echo err >&2; exit 7"])
    check("exec", (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n"))
    result = one.execute(["cat"], stdin_payload="through\n")
    check("stdin", result.stdout == "through\n")
    result = one.execute(["env"], environment={"A": "b"})
    check("environment", "A=b" in result.stdout.splitlines())
    check("listed", [i.name for i in client.instances.all(recursion=1)] == ["p1"])
    one.config["user.a"] = "c"
    one.save(wait=True)
    check("saved", client.instances.get("p1").config["user.a"] == "c")
    one.freeze(wait=True)
    check("frozen", client.instances.get("p1").status == "Frozen")
    one.unfreeze(wait=True)
    one.restart(wait=True, force=True)
    check("restarted", client.instances.get("p1").status == "Running")
    refused("delete of a running one", 400, lambda: one.delete(wait=True))
    files(one)
    one.stop(wait=True, force=True)
    one.rename("p2", wait=True)
    check("renamed", client.instances.exists("p2") and not client.instances.exists("p1"))
    client.instances.get("p2").delete(wait=True)
    check("deleted", client.instances.all() == [])


def files(one):
    one.files.put("/root/file", b"content", mode="0640", uid=0, gid=0)
    check("get", one.files.get("/root/file") == b"content")
    check("mode", one.execute(["ls", "-l", "/root/file"]).stdout.startswith("-rw-r-----"))
    one.files.mk_dir("/root/dir", mode=0o750, uid=0, gid=0)
    one.files.put("/root/dir/deep", b"x" * 3_000_000)
    check("size", hashlib.sha256(one.files.get("/root/dir/deep")).digest() == hashlib.sha256(b"x" * 3_000_000).digest())
    refused("an absent file", 404, lambda: one.files.get("/root/nosuch"))
    one.files.delete("/root/file")
    refused("a deleted file", 404, lambda: one.files.get("/root/file"))


def profiles(client):
    profile = client.profiles.create("web", config={"user.a": "b"}, devices={})
    check("profile", client.profiles.get("web").config == {"user.a": "b"})
    profile.description = "of the web"
    profile.save(wait=True)
    check("description", client.profiles.get("web").description == "of the web")
    profile.rename("net")
    check("renamed", client.profiles.exists("net") and not client.profiles.exists("web"))
    client.profiles.get("net").delete()
    refused("a deleted profile", 404, lambda: client.profiles.get("net"))


def images(client):
    image = client.images.get_by_alias("bb")
    check("image", image.fingerprint == client.images.get(image.fingerprint).fingerprint)
    check("export", image.export().read(4) != b"")
    image.add_alias("other", "a second name")
    check("alias", client.images.get_by_alias("other").fingerprint == image.fingerprint)
    image.delete_alias("other")
    refused("a deleted alias", 404, lambda: client.images.get_by_alias("other"))
    image.public = True
    image.save(wait=True)
    check("public", client.images.get(image.fingerprint).public)
    refused("an absent image", 404, lambda: client.images.get("0" * 64))
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    uploaded = client.images.create(data, public=True, wait=True)
    check("fingerprint", uploaded.fingerprint == hashlib.sha256(data).hexdigest() and uploaded.public)
    uploaded.delete(wait=True)
    check("deleted", not client.images.exists(uploaded.fingerprint))


def storage(client):
    pool = client.storage_pools.create({"name": "py", "driver": "dir"})
    check("pool", pool.driver == "dir" and client.storage_pools.exists("py"))
    check("resources", client.storage_pools.get("py").resources.get().space["total"] > 0)
    pool.description = "of python"
    pool.save()
    check("description", client.storage_pools.get("py").description == "of python")
    volume = pool.volumes.create({"name": "v", "type": "custom"})
    check("volume", volume.name == "v" and volume.content_type == "filesystem" and not volume.used_by)
    volume.config["user.a"] = "b"
    volume.save(wait=True)
    check("volume's config", pool.volumes.get("custom", "v").config == {"user.a": "b"})
    volume.snapshots.create("s1", expires_at="2040-01-01T00:00:00Z")
    snapshot = volume.snapshots.get("s1")
    check("volume's snapshot", snapshot.expires_at.startswith("2040") and snapshot.config["user.a"] == "b")
    volume.restore_from("s1")
    snapshot.rename("s2", wait=True)
    check("renamed", [str(one).split("/")[-1] for one in volume.snapshots.all()] == ["s2"])
    volume.snapshots.get("s2").delete(wait=True)
    volume.rename({"name": "w", "pool": "py"})
    check("volumes", [one.name for one in pool.volumes.all()] == ["w"])
    pool.volumes.get("custom", "w").delete()
    refused("a deleted volume", 404, lambda: pool.volumes.get("custom", "w"))
    pool.delete()
    refused("a deleted pool", 404, lambda: client.storage_pools.get("py"))


def projects(client):
    project = client.projects.create("py", description="of python", config={"features.images": "false", "features.profiles": "false"})
    check("project", project.description == "of python" and project.config["features.storage.volumes"] == "true")
    project.description = "changed"
    project.save(wait=True)
    check("description", client.projects.get("py").description == "changed")
    project = project.rename("py2")
    check("renamed", client.projects.exists("py2") and not client.projects.exists("py"))
    inside = pylxd.Client(project="py2")
    inside.instances.create({"name": "o1", "source": {"type": "image", "alias": "bb"}}, wait=True)
    check("apart", inside.instances.exists("o1") and not client.instances.exists("o1"))
    check("used", client.projects.get("py2").used_by == ["/1.0/instances/o1?project=py2"])
    refused("one that is not empty", 400, project.delete)
    inside.instances.get("o1").delete(wait=True)
    project.delete()
    refused("a deleted project", 404, lambda: client.projects.get("py2"))


def operations_and_events(client):
    events = client.events(event_types={pylxd.EventType.Lifecycle})
    check("projects", [p.name for p in client.projects.all()] == ["default"])
    response = client.api.instances.post(json={"name": "o1", "source": {"type": "none"}})
    operation = client.operations.get(response.json()["operation"])
    operation.wait()
    client.instances.get("o1").delete(wait=True)
    check("an open stream of events", events is not None)
    check("done", not client.instances.exists("o1"))


def main():
    client = pylxd.Client()
    start = time.monotonic()
    for part in (the_server, profiles, images, storage, projects, operations_and_events, instances):
        part(client)
        print(f"{part.__name__}: ok", file=sys.stderr)
    print(f"{passed} passed, 0 failed")
    print(f"{time.monotonic() - start:.1f} s", file=sys.stderr)


main()
