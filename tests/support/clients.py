# SPDX-License-Identifier: MIT-0
"""What programs on the hosts of a pair do: UDP sockets, and TCP connections of the kernel's own stack."""
import socket
import threading


def family(version):
    return socket.AF_INET if version == 4 else socket.AF_INET6


def open_udp(host, version, port=0):
    with host.namespace.entered():
        udp = socket.socket(family(version), socket.SOCK_DGRAM)
    udp.settimeout(60)
    udp.bind((host.address(version), port))
    return udp


def transfer(pair, version, sent):
    """What the server gets of what the client sends over a TCP connection."""
    got = []
    with pair.server.namespace.entered():
        listener = socket.create_server((pair.server.address(version), 80), family=family(version))
    with pair.client.namespace.entered():
        client = socket.socket(family(version), socket.SOCK_STREAM)
    listener.settimeout(30)
    client.settimeout(30)

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(30)
            while True:
                data = connection.recv(65536)
                if not data:
                    return
                got.append(data)

    server = threading.Thread(target=serve)
    with listener, client:
        server.start()
        client.connect((pair.server.address(version), 80))
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        server.join(60)
    return b"".join(got)


def checksum_errors(lab, pair):
    return [namespace.checksum_errors() for namespace in (pair.client.namespace, pair.server.namespace, lab.appliance)]
