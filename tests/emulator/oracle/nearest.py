#!/usr/bin/env python3
"""Write tests/emulator/tests/data/nearest.jsonl: the nearest values of the transcendental instructions.

A line for each function and type: words of inputs, words of results, in hexadecimal. Results are computed with 60
decimal places (the standard library's decimal; the series of sine and cosine is written here) and rounded once. Of
many seeded inputs those are taken whose results lie nearest to the middle of two values, where an error far below
one unit in the last place shows; the rest are the first ones.
"""
import json
import math
import pathlib
import random
import struct
from decimal import Decimal, getcontext
from fractions import Fraction

getcontext().prec = 60
getcontext().Emin, getcontext().Emax = -99999, 99999
LN2 = Decimal(2).ln()
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
# type: struct's letter and that of its bits, fraction bits, least exponent
TYPES = {"f16": ("e", "H", 10, -14), "f32": ("f", "I", 23, -126), "f64": ("d", "Q", 52, -1022)}
HARD, EASY = 192, 64


def sine(turns):
    """Of an exact fraction of turns; the angle reduced to an eighth of a turn."""
    turns %= 1
    if turns >= Fraction(1, 2):
        return -sine(turns - Fraction(1, 2))
    if turns > Fraction(1, 4):
        return sine(Fraction(1, 2) - turns)
    angle = 2 * PI * Decimal(turns.numerator) / Decimal(turns.denominator)
    term = total = angle
    n = 1
    while abs(term) > Decimal("1e-70"):
        term = -term * angle * angle / ((n + 1) * (n + 2))
        total += term
        n += 2
    return total


def exact(x):
    x = Fraction(x)
    return Decimal(x.numerator) / Decimal(x.denominator)


FUNCTIONS = {
    "exp": lambda x: (exact(x) * LN2).exp(),
    "log": lambda x: exact(x).ln() / LN2,
    "rcp": lambda x: 1 / exact(x),
    "rsq": lambda x: 1 / exact(x).sqrt(),
    "sqrt": lambda x: exact(x).sqrt(),
    "sin": lambda x: sine(Fraction(x)),
    "cos": lambda x: sine(Fraction(x) + Fraction(1, 4)),
}
# The same in double precision, to choose inputs of the shorter types.
ROUGH = {
    "exp": lambda x: 2.0**x,
    "log": math.log2,
    "rcp": lambda x: 1 / x,
    "rsq": lambda x: 1 / math.sqrt(x),
    "sqrt": math.sqrt,
    "sin": lambda x: math.sin(2 * math.pi * (x % 1)),
    "cos": lambda x: math.cos(2 * math.pi * (x % 1)),
}


def from_tie(y, kind):
    """How far a result in double precision is from the middle of two values, in units in the last place."""
    _, _, fraction, least = TYPES[kind]
    place = max(math.frexp(y)[1] - 1, least) - fraction
    return abs(abs(math.ldexp(y, -place)) % 1 - 0.5)


def units(y, kind):
    """A result in units in its last place, and that place's exponent."""
    _, _, fraction, least = TYPES[kind]
    y = abs(y)
    exponent = int((y.ln() / LN2).to_integral_value(rounding="ROUND_FLOOR")) if y else least
    while Decimal(2) ** exponent > y and y:
        exponent -= 1
    while Decimal(2) ** (exponent + 1) <= y:
        exponent += 1
    place = max(exponent, least) - fraction
    return y / Decimal(2) ** place, place


def nearest(y, kind):
    """Bits of the nearest value, the even one of two."""
    letter, bits, fraction, _ = TYPES[kind]
    count, place = units(y, kind)
    value = float(Fraction(int(count.to_integral_value(rounding="ROUND_HALF_EVEN"))) * Fraction(2) ** place)
    return struct.unpack(bits, struct.pack(letter, -value if y < 0 else value))[0]


def inputs(name, kind, seed, n):
    letter = TYPES[kind][0]
    low, high = {"f16": (-14, 15), "f32": (-126, 127), "f64": (-1022, 1023)}[kind]
    for _ in range(n):
        sign = seed.choice([-1, 1])
        if name == "exp":
            x = seed.uniform(low + 0.5, high + 0.5) * seed.choice([1, 1, 2.0 ** -seed.randrange(8)])
        elif name == "log":
            x = seed.choice([1 + sign * 2.0 ** -seed.uniform(2, 12), 2.0 ** seed.uniform(low, high)])
        elif name in ("sin", "cos"):
            x = sign * seed.choice([seed.uniform(0, 1), seed.uniform(0, 64), 2.0 ** -seed.uniform(1, 12)])
        else:
            x = (sign if name == "rcp" else 1) * seed.uniform(1, 2) * 2.0 ** seed.randrange(low + 2, high - 2)
        yield struct.unpack(letter, struct.pack(letter, x))[0]


def main():
    lines = []
    for name, function in FUNCTIONS.items():
        for kind in ("f16", "f32", "f64") if name in ("rcp", "rsq", "sqrt") else ("f16", "f32"):
            letter, bits, _, _ = TYPES[kind]
            seed = random.Random(f"{name} {kind}")
            if kind == "f64":
                xs = list(dict.fromkeys(inputs(name, kind, seed, 6000)))
                distances = {x: abs(units(function(x), kind)[0] % 1 - Decimal("0.5")) for x in xs}
            else:
                xs = list(dict.fromkeys(inputs(name, kind, seed, 300_000)))
                distances = {x: from_tie(ROUGH[name](x), kind) for x in xs}
            hard = sorted(xs, key=distances.get)[:HARD]
            chosen = hard + [x for x in xs if x not in hard][:EASY]
            results = {x: function(x) for x in chosen}
            width = {"e": 4, "f": 8, "d": 16}[letter]
            words = [
                "".join(f"{word:0{width}x}" for word in column)
                for column in (
                    [struct.unpack(bits, struct.pack(letter, x))[0] for x in chosen],
                    [nearest(results[x], kind) for x in chosen],
                )
            ]
            lines.append(json.dumps({"function": f"{name}_{kind}", "in": words[0], "out": words[1]}))
    data = pathlib.Path(__file__).parent.parent / "tests/data/nearest.jsonl"
    data.write_text("\n".join(lines) + "\n")


main()
