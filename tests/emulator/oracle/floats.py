"""Exact binary floating point: every operation is done in rational numbers and rounded once."""

import math
from dataclasses import dataclass
from fractions import Fraction

# name -> (bits, exponent bits, fraction bits)
FORMATS = {
    "f16": (16, 5, 10),
    "bf16": (16, 8, 7),
    "f32": (32, 8, 23),
    "f64": (64, 11, 52),
}
WIDER = ["f16", "bf16", "f32", "f64"]


@dataclass(frozen=True)
class Float:
    """A value of one format: a NaN, an infinity, or sign and magnitude."""

    format: str
    negative: bool
    magnitude: Fraction | None  # None: infinity or NaN
    nan: bool = False
    signalling: bool = False

    @property
    def infinite(self):
        return self.magnitude is None and not self.nan

    @property
    def zero(self):
        return self.magnitude == 0

    @property
    def value(self):
        """The finite value as a rational number."""
        return -self.magnitude if self.negative else self.magnitude


def nan(fmt, signalling=False):
    return Float(fmt, False, None, True, signalling)


def infinity(fmt, negative=False):
    return Float(fmt, negative, None)


def zero(fmt, negative=False):
    return Float(fmt, negative, Fraction(0))


def decode(fmt, bits):
    width, ebits, fbits = FORMATS[fmt]
    negative = bool(bits >> (width - 1) & 1)
    exponent = bits >> fbits & ((1 << ebits) - 1)
    fraction = bits & ((1 << fbits) - 1)
    bias = (1 << (ebits - 1)) - 1
    if exponent == (1 << ebits) - 1:
        if fraction:
            return Float(fmt, negative, None, True, not fraction >> (fbits - 1) & 1)
        return infinity(fmt, negative)
    if exponent == 0:
        return Float(fmt, negative, Fraction(fraction) * Fraction(2) ** (1 - bias - fbits))
    return Float(fmt, negative, Fraction((1 << fbits) + fraction) * Fraction(2) ** (exponent - bias - fbits))


def encode(x):
    width, ebits, fbits = FORMATS[x.format]
    sign = int(x.negative) << (width - 1)
    top = ((1 << ebits) - 1) << fbits
    if x.nan:
        return sign | top | (1 if x.signalling else 1 << (fbits - 1))
    if x.magnitude is None:
        return sign | top
    if x.zero:
        return sign
    bias = (1 << (ebits - 1)) - 1
    e = max(log2_floor(x.magnitude), 1 - bias)
    units = x.magnitude / Fraction(2) ** (e - fbits)
    assert units.denominator == 1, "value is not of its format"
    n = int(units)
    if n < 1 << fbits:
        return sign | n
    return sign | ((e + bias) << fbits) | (n - (1 << fbits))


def log2_floor(x):
    e = x.numerator.bit_length() - x.denominator.bit_length()
    if Fraction(2) ** e > x:
        e -= 1
    return e


def rounded(fmt, negative, magnitude, towards_zero=False):
    """The nearest value of the format, ties to even (or the next towards zero)."""
    _, ebits, fbits = FORMATS[fmt]
    if magnitude == 0:
        return zero(fmt, negative)
    bias = (1 << (ebits - 1)) - 1
    e = max(log2_floor(magnitude), 1 - bias)
    ulp = Fraction(2) ** (e - fbits)
    n = math.floor(magnitude / ulp) if towards_zero else round(magnitude / ulp)
    result = n * ulp
    largest = (Fraction(2) - Fraction(2) ** -fbits) * Fraction(2) ** bias
    if result > largest:
        return Float(fmt, negative, largest) if towards_zero else infinity(fmt, negative)
    return Float(fmt, negative, result)


def of(fmt, value, towards_zero=False):
    """A rational number rounded to a format; zero is positive."""
    value = Fraction(value)
    return rounded(fmt, value < 0, abs(value), towards_zero)


def convert(x, fmt, towards_zero=False):
    if x.nan:
        return Float(fmt, x.negative, None, True, x.signalling)
    if x.magnitude is None:
        return infinity(fmt, x.negative)
    return rounded(fmt, x.negative, x.magnitude, towards_zero)


def common(*xs):
    return max((x.format for x in xs), key=WIDER.index)


def add(a, b, towards_zero=False):
    fmt = common(a, b)
    if a.nan or b.nan or (a.infinite and b.infinite and a.negative != b.negative):
        return nan(fmt)
    if a.infinite or b.infinite:
        return infinity(fmt, a.negative if a.infinite else b.negative)
    total = a.value + b.value
    if total == 0:
        return zero(fmt, a.negative and b.negative)
    return rounded(fmt, total < 0, abs(total), towards_zero)


def mul(a, b):
    fmt = common(a, b)
    if a.nan or b.nan or (a.infinite and b.zero) or (a.zero and b.infinite):
        return nan(fmt)
    negative = a.negative != b.negative
    if a.infinite or b.infinite:
        return infinity(fmt, negative)
    return rounded(fmt, negative, a.magnitude * b.magnitude)


def div(a, b):
    fmt = common(a, b)
    if a.nan or b.nan or (a.infinite and b.infinite) or (a.zero and b.zero):
        return nan(fmt)
    negative = a.negative != b.negative
    if a.infinite or b.zero:
        return infinity(fmt, negative)
    if b.infinite:
        return zero(fmt, negative)
    return rounded(fmt, negative, a.magnitude / b.magnitude)


def fma(a, b, c):
    fmt = common(a, b, c)
    if a.nan or b.nan or c.nan or (a.infinite and b.zero) or (a.zero and b.infinite):
        return nan(fmt)
    negative = a.negative != b.negative
    if a.infinite or b.infinite:
        return nan(fmt) if c.infinite and c.negative != negative else infinity(fmt, negative)
    if c.infinite:
        return infinity(fmt, c.negative)
    total = a.value * b.value + c.value
    if total == 0:
        return zero(fmt, negative and c.negative)
    return rounded(fmt, total < 0, abs(total))


def neg(a):
    return Float(a.format, not a.negative, a.magnitude, a.nan, a.signalling)


def absolute(a):
    return Float(a.format, False, a.magnitude, a.nan, a.signalling)


def quiet(a):
    return nan(a.format)


def ldexp(a, n):
    if a.magnitude is None or a.zero:
        return quiet(a) if a.nan else a
    n = max(-5000, min(5000, n))
    return rounded(a.format, a.negative, a.magnitude * Fraction(2) ** n)


def sqrt(a):
    if a.nan or (a.negative and not a.zero):
        return nan(a.format)
    if a.zero or a.infinite:
        return a
    # 2^(2k) * magnitude has an integer square root of more than 200 bits: enough to round every format
    k = max(0, 220 - log2_floor(a.magnitude) // 2)
    scaled = a.magnitude * Fraction(4) ** k
    root = Fraction(math.isqrt(math.floor(scaled)))
    if root * root != scaled:
        root += Fraction(1, 2)
    return rounded(a.format, False, root / Fraction(2) ** k)


def whole(a, pick):
    """floor, trunc, ... of a finite number, the sign of zero kept."""
    if a.magnitude is None:
        return quiet(a) if a.nan else a
    n = pick(a.value)
    return zero(a.format, a.negative) if n == 0 else of(a.format, n)


def trunc(a):
    return whole(a, math.trunc)


def floor(a):
    return whole(a, math.floor)


def round_even(a):
    return whole(a, round)


def through_double(a, function):
    """A transcendental function in double precision, rounded: within half an ulp and a hair for f32 and f16."""
    y = function(float(a.value))
    if math.isnan(y):
        return nan(a.format)
    if math.isinf(y):
        return infinity(a.format, y < 0)
    return rounded(a.format, math.copysign(1, y) < 0, abs(Fraction(y)))


def exp2(a):
    if a.nan:
        return quiet(a)
    if a.infinite:
        return zero(a.format) if a.negative else a
    if a.value > 1100:
        return infinity(a.format)
    if a.value < -1100:
        return zero(a.format)
    return through_double(a, lambda x: 2.0**x if x < 1024 else math.inf)


def log2(a):
    if a.nan or (a.negative and not a.zero):
        return nan(a.format)
    if a.zero:
        return infinity(a.format, True)
    return a if a.infinite else through_double(a, math.log2)


def sine_turns(a):
    """Of an angle in whole turns, whose whole part does not matter."""
    return turned(a, Fraction(0))


def cosine_turns(a):
    return turned(a, Fraction(1, 4))


def turned(a, ahead):
    if a.magnitude is None:
        return nan(a.format)
    part = (a.value + ahead) % 1
    y = {Fraction(0): 0.0, Fraction(1, 4): 1.0, Fraction(1, 2): 0.0, Fraction(3, 4): -1.0}.get(part)
    y = math.sin(2 * math.pi * float(part)) if y is None else y
    return of(a.format, Fraction(y))


def to_int(a, width, signed):
    """Towards zero, saturated; NaN is 0."""
    low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
    if a.nan:
        return 0
    if a.infinite:
        return low if a.negative else high
    return max(low, min(high, math.trunc(a.value)))


def exponent(a):
    """The exponent field."""
    _, ebits, fbits = FORMATS[a.format]
    return encode(a) >> fbits & ((1 << ebits) - 1)


def mantissa(a):
    """The value scaled to 0.5 <= |x| < 1."""
    if a.zero:
        return a
    return Float(a.format, a.negative, a.magnitude / Fraction(2) ** (log2_floor(a.magnitude) + 1))


def denormal(a):
    return a.magnitude is not None and not a.zero and exponent(a) == 0
