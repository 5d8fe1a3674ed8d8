"""Scapy's IPsec as a stranger to check ours against: one list of jobs (JSON) in, one list of answers out.

A job: {"op": "encrypt"|"decrypt", "cipher", "key" (hex, salt included), "spi", "seq", "esn" (high half or null),
"local", "remote", "udp" and "transport" (bool), "iv" (hex, to encrypt), "packet" (hex, from its IP header on)}.
An answer: {"packet": hex} or {"error": text}.
"""

import json
import logging
import sys
import warnings

warnings.filterwarnings("ignore")
logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import raw


def ip(data):
    return IP(data) if data[0] >> 4 == 4 else IPv6(data)


def association(job):
    outer = IPv6 if ":" in job["local"] else IP
    return SecurityAssociation(
        ESP,
        spi=job["spi"],
        seq_num=job["seq"],
        crypt_algo=job["cipher"],
        crypt_key=bytes.fromhex(job["key"]),
        tunnel_header=None if job["transport"] else outer(src=job["local"], dst=job["remote"]),
        nat_t_header=UDP(sport=4500, dport=4500) if job["udp"] else None,
        esn_en=job["esn"] is not None,
        esn=job["esn"] or 0,
    )


def answer(job):
    packet = ip(bytes.fromhex(job["packet"]))
    try:
        if job["op"] == "encrypt":
            out = association(job).encrypt(packet, iv=bytes.fromhex(job["iv"]))
        else:
            out = association(job).decrypt(packet)
        return {"packet": raw(out).hex()}
    except Exception as e:  # what went wrong is the answer
        return {"error": "%s %s" % (type(e).__name__, e)}


json.dump([answer(job) for job in json.load(sys.stdin)], sys.stdout)
