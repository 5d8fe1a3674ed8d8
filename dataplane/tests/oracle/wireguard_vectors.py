"""WireGuard handshakes with fixed keys, written from the protocol's paper alone, to hold the Rust code against.

    python3 dataplane/tests/oracle/wireguard_vectors.py > dataplane/src/crypto/wg/vectors.txt

Needs the `cryptography` package (X25519, ChaCha20-Poly1305); BLAKE2s and HMAC are Python's own, HChaCha20 is below
(draft-irtf-cfrg-xchacha-03, section 2.2, whose example is checked first).
"""

import hashlib
import hmac as hmac_module
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


def hash_(data):
    return hashlib.blake2s(data).digest()


def mac(key, data):
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def hmac(key, data):
    return hmac_module.new(key, data, hashlib.blake2s).digest()


def kdf(n, key, data):
    secret, out, last = hmac(key, data), [], b""
    for i in range(1, n + 1):
        last = hmac(secret, last + bytes([i]))
        out.append(last)
    return out


def aead(key, counter, text, auth):
    return ChaCha20Poly1305(key).encrypt(b"\0\0\0\0" + struct.pack("<Q", counter), text, auth)


def hchacha20(key, nonce):
    def rotate(x, n):
        return (x << n | x >> (32 - n)) & 0xFFFFFFFF

    def quarter(s, a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = rotate(s[z] ^ s[x], n)

    s = list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key) + struct.unpack("<4I", nonce))
    for _ in range(10):
        for columns in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
            quarter(s, *columns)
        for diagonals in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter(s, *diagonals)
    return struct.pack("<8I", *s[:4], *s[12:])


def xaead(key, nonce, text, auth):
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])).encrypt(b"\0\0\0\0" + nonce[16:], text, auth)


def public(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private, other):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(other))


def stamp(message, receiver, cookie):
    message += mac(hash_(b"mac1----" + receiver), message)
    return message + (mac(cookie, message) if cookie else bytes(16))


def handshake(seed, psk, sender, receiver, timestamp, cookie):
    private = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in ("si", "sr", "ei", "er")]
    si, sr, ei, er = private
    SI, SR, EI, ER = map(public, private)

    # Section 5.4.2, first message.
    c = hash_(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    h = hash_(hash_(c + b"WireGuard v1 zx2c4 Jason@zx2c4.com") + SR)
    (c,), h = kdf(1, c, EI), hash_(h + EI)
    c, k = kdf(2, c, dh(ei, SR))
    static = aead(k, 0, SI, h)
    h = hash_(h + static)
    c, k = kdf(2, c, dh(si, SR))
    stamped = aead(k, 0, timestamp, h)
    h = hash_(h + stamped)
    initiation = stamp(struct.pack("<II", 1, sender) + EI + static + stamped, SR, cookie)

    # Section 5.4.3, second message.
    (c,), h = kdf(1, c, ER), hash_(h + ER)
    (c,) = kdf(1, c, dh(er, EI))
    (c,) = kdf(1, c, dh(er, SI))
    c, t, k = kdf(3, c, psk)
    h = hash_(h + t)
    empty = aead(k, 0, b"", h)
    response = stamp(struct.pack("<III", 2, receiver, sender) + ER + empty, SI, None)

    # Section 5.4.5 and 5.4.6: one packet each way, padded.
    send, receive = kdf(2, c, b"")
    packet = bytes.fromhex("45000017000000004011") + bytes(13)
    padded = packet + bytes(-len(packet) % 16)
    there = struct.pack("<IIQ", 4, receiver, 0) + aead(send, 0, padded, b"")
    back = struct.pack("<IIQ", 4, sender, 2**40 + 5) + aead(receive, 2**40 + 5, padded, b"")
    keepalive = struct.pack("<IIQ", 4, receiver, 1) + aead(send, 1, b"", b"")

    # Section 5.4.7: a cookie for the initiator.
    nonce = bytes(range(100, 124))
    reply = struct.pack("<II", 3, sender) + nonce
    reply += xaead(hash_(b"cookie--" + SR), nonce, b"sixteen bytes ok", initiation[-32:-16])

    values = {
        "si": si, "sr": sr, "ei": ei, "er": er, "SI": SI, "SR": SR, "psk": psk,
        "sender": struct.pack(">I", sender), "receiver": struct.pack(">I", receiver), "timestamp": timestamp,
        "cookie": cookie or b"", "initiation": initiation, "response": response, "packet": packet, "there": there,
        "back": back, "keepalive": keepalive, "reply": reply,
    }
    print(f"# handshake {seed}")
    for name, value in values.items():
        print(name, value.hex())


example = hchacha20(bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927"))
assert example.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
print("# Made by dataplane/tests/oracle/wireguard_vectors.py. Hex; keys s: static, e: ephemeral, i: initiator, r: responder.")
time = struct.pack(">QI", 2**62 + 10 + 1_700_000_000, 0x07000000)
handshake("without a preshared key", bytes(32), 0x01020304, 0xA1A2A3A4, time, None)
handshake("with one", hashlib.sha256(b"psk").digest(), 0xFFFFFFFF, 0, time, None)
handshake("with one and a cookie", hashlib.sha256(b"another psk").digest(), 7, 8, bytes(range(12)), b"sixteen bytes ok")
