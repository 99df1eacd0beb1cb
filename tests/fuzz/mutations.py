"""Ways to damage bytes and JSON, all from one generator of random numbers."""

from __future__ import annotations

import copy
import json
import struct
from random import Random
from typing import Any

_WORDS = [0, 1, -1, 7, 8, 255, 1 << 16, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -(1 << 63)]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _hostile(rng: Random) -> Any:
    return rng.choice(
        [
            lambda: None,
            lambda: rng.choice([-1, 0, 1, 10**12, 10**30, 1 << 63, True, 1e308, float("nan")]),
            lambda: rng.choice(
                ["", "\0", "x" * 5000, "../../etc/passwd", "$", "\ud800", "O", "|O"]
            ),
            lambda: rng.choice(["<S2000000000", "<U500000000", "(100000000,)f8", "<M8[s]", "<V9"]),
            lambda: deep(rng.choice([3, 90, 400, 700])),
            lambda: {"$fraction": "1e20000000"},
            lambda: {"$decimal": "1E+999999999999999999"},
            lambda: {"$deque": [{"$range": [0, 10**12, 1]}, None]},
            lambda: {"$counter": [{"$range": [0, 10**12, 1]}]},
            lambda: {"$scalar": ["<f8", {"$range": [0, 10**12, 1]}]},
            lambda: {"$scalar": ["S2000000000", "x"]},
            lambda: {"$array": ["S2000000000", [9], ["x"] * 9]},
            lambda: {"$array_bytes": ["<f8", [10**15], ""]},
            lambda: {"$datetime": "9999-12-31T23:59:59.999999+23:59"},
            lambda: {"$timedelta": [10**12, 0, 0]},
            lambda: {"$pattern": ["(" * 5000, 128]},
            lambda: {"$pattern": ["(a*)*" * 10, 128]},
            lambda: {"$timezone": "../../../etc/passwd"},
            lambda: {"$dict": [[{"$tuple": []}, 1], [[], 2]]},
            lambda: {"$set": [{"$dict": []}]},
            lambda: {"$import": "os:system"},
            lambda: {"$make": [{"$import": "os:system"}, ["touch made-by-fuzz"]]},
            lambda: {
                "$pickle": ["3.11", "gASVIQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"]
            },
            lambda: {"$column": "x"},
            lambda: {"$series": rng.choice([-1, 0, 99, 1 << 70])},
            lambda: {"$xarray": ["open_dataset", {}]},
        ]
    )()


def mutate_json(data: Any, rng: Random) -> Any:
    """Change one to three places of some JSON."""
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        waiting = [data]
        while waiting:
            item = waiting.pop()
            if isinstance(item, (dict, list)):
                keys = list(item) if isinstance(item, dict) else range(len(item))
                places += [(item, key) for key in keys]
                waiting += [item[key] for key in keys]
        if not places:
            return _hostile(rng)
        held, key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                del held[key]
            case 1 if isinstance(held, dict):
                held[rng.choice(["", "$tuple", "$x", key + "x"])] = held.pop(key)
            case 2:
                other, other_key = rng.choice(places)
                held[key] = copy.deepcopy(other.get(other_key) if type(other) is dict else other)
            case _:
                held[key] = _hostile(rng)
    return data


def mutate_text(text: bytes, rng: Random) -> bytes:
    """Change the JSON in some text, or its bytes."""
    if rng.random() < 0.8:
        try:
            return json.dumps(mutate_json(json.loads(text), rng)).encode()
        except (ValueError, RecursionError):
            pass
    return mutate_bytes(text, [text], rng)


def mutate_bytes(content: bytes, others: list[bytes], rng: Random) -> bytes:
    """Flip bits, cut, splice, or change numbers, mostly where files keep lengths and offsets."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 12])):
        if len(data) < 32:
            break
        ends = rng.random()
        low, high = (0, len(data)) if ends < 0.3 else (0, min(len(data), 1500))
        if ends > 0.65:
            low, high = max(0, len(data) - 1500), len(data)
        at = rng.randrange(low, high)
        match rng.randrange(9):
            case 0 | 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
            case 3:
                del data[at : at + rng.choice([1, 4, 8, 64, len(data)])]
            case 4:
                other = rng.choice(others)
                start = rng.randrange(len(other)) if other else 0
                piece = other[start : start + rng.choice([4, 8, 64, 4096])]
                data[at : at + rng.choice([0, len(piece)])] = piece
            case 5:
                data[at : at + 4] = struct.pack(
                    "<i", (rng.choice(_WORDS) + (1 << 31)) % (1 << 32) - (1 << 31)
                )
            case _:
                at = at // 8 * 8
                if at + 8 <= len(data):
                    (word,) = struct.unpack_from("<q", data, at)
                    word = rng.choice([*_WORDS, word + 8, word - 8, word * 2, word + 1])
                    word = (word + (1 << 63)) % (1 << 64) - (1 << 63)
                    struct.pack_into("<q", data, at, word)
    return bytes(data)
