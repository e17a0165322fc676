#!/usr/bin/env python3
"""Writes made.toml: recipients and stanzas of a software key, computed without any of our code.

Needs Python's `cryptography`. Sources: BIP 173 (Bech32), RFC 9180 (HPKE), RFC 5869 (HKDF),
c2sp.org/age (p256tag); the tpm-ecc construction is that of the Go plugin v0.x.
"""
import base64
import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FILE_KEY = bytes(range(16))


def b64(data):
    return base64.b64encode(data).decode().rstrip("=")


def bech32(hrp, data):
    chars = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 5)
    words = [int(bits[i : i + 5], 2) for i in range(0, len(bits), 5)]

    def polymod(values):
        check = 1
        for value in values:
            top = check >> 25
            check = (check & 0x1FFFFFF) << 5 ^ value
            for i, g in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
                check ^= g if top >> i & 1 else 0
        return check

    expanded = [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]
    code = polymod(expanded + words + [0] * 6) ^ 1
    words += [code >> 5 * (5 - i) & 31 for i in range(6)]
    return hrp + "1" + "".join(chars[word] for word in words)


def extract(salt, ikm):
    return hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()


def expand(prk, info, length):
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        out, counter = out + block, counter + 1
    return out[:length]


def labeled_extract(suite, salt, label, ikm):
    return extract(salt, b"HPKE-v1" + suite + label + ikm)


def labeled_expand(suite, prk, label, info, length):
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def key(byte):
    private = ec.derive_private_key(int.from_bytes(bytes([byte]) * 32, "big"), ec.SECP256R1())
    public = private.public_key()
    return (
        private,
        public,
        public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
        public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
    )


def p256tag(own, ephemeral):
    info = b"age-encryption.org/p256tag"
    dh = ephemeral[0].exchange(ec.ECDH(), own[1])
    kem, hpke = b"KEM\x00\x10", b"HPKE\x00\x10\x00\x01\x00\x03"
    shared = labeled_expand(
        kem, labeled_extract(kem, b"", b"eae_prk", dh), b"shared_secret", ephemeral[3] + own[3], 32
    )
    context = (
        b"\x00"
        + labeled_extract(hpke, b"", b"psk_id_hash", b"")
        + labeled_extract(hpke, b"", b"info_hash", info)
    )
    secret = labeled_extract(hpke, shared, b"secret", b"")
    cipher = ChaCha20Poly1305(labeled_expand(hpke, secret, b"key", context, 32))
    body = cipher.encrypt(labeled_expand(hpke, secret, b"base_nonce", context, 12), FILE_KEY, b"")
    tag = extract(info, ephemeral[3] + hashlib.sha256(own[2]).digest()[:4])[:4]
    return ["p256tag", b64(tag), b64(ephemeral[3])], body


def tpm_ecc(own, ephemeral):
    dh = ephemeral[0].exchange(ec.ECDH(), own[1])
    wrap = expand(
        extract(ephemeral[3] + own[3], dh), b"age-encryption.org/v1/tpm-p256", 32
    )
    body = ChaCha20Poly1305(wrap).encrypt(bytes(12), FILE_KEY, b"")
    return ["tpm-ecc", b64(hashlib.sha256(own[3]).digest()[:4]), b64(ephemeral[2])], body


with open(__file__.replace("make.py", "made.toml"), "w") as out:
    print("# Made by make.py. The private key of KEY is the byte KEY, 32 times.", file=out)
    for own_byte, ephemeral_byte in ((7, 9), (0x11, 0x42), (0xFE, 1)):
        own, ephemeral = key(own_byte), key(ephemeral_byte)
        print("\n[[case]]", file=out)
        print(f"key = {own_byte}\nephemeral = {ephemeral_byte}", file=out)
        print(f'file_key = "{FILE_KEY.hex()}"', file=out)
        print(f'tag = "{bech32("age1tag", own[2])}"', file=out)
        print(f'tpm = "{bech32("age1tpm", own[2])}"', file=out)
        for name, (args, body) in (
            ("p256tag", p256tag(own, ephemeral)),
            ("tpm_ecc", tpm_ecc(own, ephemeral)),
        ):
            print(f'{name} = "{" ".join(args)}"\n{name}_body = "{b64(body)}"', file=out)
