"""A program with pylxd comes in over HTTPS by a token that another has made by the socket of LXD_DIR.

Arguments: the address, the client's certificate and key, the file of the server's certificate. Prints what it may then see.
"""

import sys

import pylxd
from pylxd.exceptions import LXDAPIException

address, certificate, key, server = sys.argv[1:]
token = pylxd.Client().certificates.create_token(name="program", projects=["blue"], restricted=True)
client = pylxd.Client(endpoint=f"https://{address}", cert=(certificate, key), verify=server, project="blue")
assert not client.trusted
client.authenticate(token)
assert client.trusted
print([project.name for project in client.projects.all()], [one.name for one in client.certificates.all()])
assert client.instances.all() == []
try:
    pylxd.Client(endpoint=f"https://{address}", cert=(certificate, key), verify=server).instances.all()
except LXDAPIException as error:
    print(error)
