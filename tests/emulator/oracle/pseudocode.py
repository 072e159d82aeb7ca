"""Reads and runs AMD's pseudo-code of one instruction.

Values are Bits (an integer with a width and a sign convention) or floats.Float. Integer arithmetic is unbounded
until a value is stored, viewed (`.u32`) or cast, as the manuals write it.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

import floats
from floats import Float

TOKEN = re.compile(
    r"""(?P<cast>\d+'(?:U|I|F|BF|B)\b)
      | (?P<sized>\d+'(?:0x[0-9a-fA-F]+|\d+\.\d+|\d+)(?:ULL|LL|U)?)
      | (?P<real>\d+\.\d+F?)
      | (?P<int>0x[0-9a-fA-F]+(?:ULL|LL|U)?|\d+(?:ULL|LL|U)?)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<op><>|==|!=|<=|>=|<<|>>|&&|\|\||\+:|\*\*|\+=|-=|[-+*/%&|^~!<>=?:;,.(){}\[\]])
      | (?P<space>\s+)""",
    re.X,
)
VIEW = re.compile(r"(u|i|b|f|bf|fp)(\d+)$")


class Unsupported(Exception):
    """The text uses something this interpreter does not know."""


@dataclass(frozen=True)
class Bits:
    value: int
    width: int
    signed: bool = False

    def unsigned(self):
        return self.value & ((1 << self.width) - 1)

    def truth(self):
        return self.value != 0


def float_name(kind, width):
    name = f"{kind}{width}"
    if name not in floats.FORMATS:
        raise Unsupported(name)
    return name


def view(kind, width, raw):
    """`raw` (an integer whose low bits count) seen as u32, i16, f16, ..."""
    raw &= (1 << width) - 1
    if kind in ("f", "bf", "fp"):
        return floats.decode(float_name(kind, width), raw)
    if kind == "i" and raw >> (width - 1):
        return Bits(raw - (1 << width), width, True)
    return Bits(raw, width, kind == "i")


def raw_of(v):
    return floats.encode(v) if isinstance(v, Float) else v.unsigned() if v.value >= 0 else v.value


def width_of(v):
    return floats.FORMATS[v.format][0] if isinstance(v, Float) else v.width


def tokens(text):
    text = re.sub(r"//[^\n]*", "", text)
    out, at = [], 0
    while at < len(text):
        m = TOKEN.match(text, at)
        if not m:
            raise Unsupported(f"character {text[at]!r}")
        if m.lastgroup != "space":
            out.append((m.lastgroup, m.group()))
        at = m.end()
    return out


BINARY = [["||"], ["&&"], ["|"], ["^"], ["&"], ["==", "!=", "<>"], ["<", ">", "<=", ">="], ["<<", ">>"],
          ["+", "-"], ["*", "/", "%"]]


class Parser:
    def __init__(self, text):
        self.tokens = tokens(text)
        self.at = 0

    def peek(self, ahead=0):
        i = self.at + ahead
        return self.tokens[i][1] if i < len(self.tokens) else None

    def next(self):
        token = self.tokens[self.at]
        self.at += 1
        return token

    def accept(self, text):
        if self.peek() == text:
            self.at += 1
            return True
        return False

    def expect(self, text):
        if not self.accept(text):
            raise Unsupported(f"expected {text!r}, found {self.peek()!r}")

    def block(self, *ends):
        body = []
        while True:
            while self.accept(";"):
                pass
            if self.peek() is None and not ends:
                return body
            if self.peek() in ends:
                return body
            if self.peek() is None:
                raise Unsupported("unfinished block")
            body.append(self.statement())

    def statement(self):
        word = self.peek()
        if word == "if":
            self.next()
            arms, otherwise = [], []
            condition = self.expression()
            self.expect("then")
            arms.append((condition, self.block("elsif", "else", "endif")))
            while True:
                if self.accept("elsif"):
                    condition = self.expression()
                    self.expect("then")
                    arms.append((condition, self.block("elsif", "else", "endif")))
                elif self.accept("else"):
                    otherwise = self.block("endif")
                else:
                    self.expect("endif")
                    return ("if", arms, otherwise)
        if word == "for":
            self.next()
            name = self.next()[1]
            self.expect("in")
            low = self.binary(0)
            self.expect(":")
            high = self.expression()
            self.expect("do")
            body = self.block("endfor")
            self.expect("endfor")
            return ("for", name, low, high, body)
        if word == "declare":
            self.next()
            name = self.next()[1]
            self.expect(":")
            size, kind = self.next()[1].split("'")
            count = None
            if self.accept("["):
                count = int(self.next()[1])
                self.expect("]")
            return ("declare", name, int(size), kind, count)
        if word == "break":
            self.next()
            return ("break",)
        if word == "return":
            self.next()
            return ("return", self.expression())
        if self.peek(1) == "=" and self.peek(2) == "lambda":
            name = self.next()[1]
            self.next()
            self.next()
            self.expect("(")
            args = []
            while not self.accept(")"):
                args.append(self.next()[1])
                self.accept(",")
            self.expect("(")
            if self.peek() in ("if", "declare"):
                body = self.block(")")
            else:
                body = [("return", self.expression())]
            self.expect(")")
            return ("lambda", name, args, body)
        target = self.postfix()
        if self.peek() in ("=", "+=", "-="):
            op = self.next()[1]
            source = self.expression()
            if op == "=" and self.accept("="):
                return ("both", target, source, self.expression())
            return ("assign", target, op, source)
        return ("expression", target)

    def expression(self):
        condition = self.binary(0)
        if self.accept("?"):
            yes = self.expression()
            self.expect(":")
            return ("choose", condition, yes, self.expression())
        return condition

    def binary(self, level):
        if level == len(BINARY):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek() in BINARY[level]:
            op = self.next()[1]
            left = ("binary", op, left, self.binary(level + 1))
        return left

    def unary(self):
        if self.peek() in ("-", "+", "~", "!"):
            return ("unary", self.next()[1], self.unary())
        base = self.postfix()
        if self.accept("**"):
            return ("binary", "**", base, self.unary())
        return base

    def postfix(self):
        node = self.primary()
        while True:
            if self.accept("."):
                node = ("member", node, self.next()[1])
            elif self.accept("["):
                first = self.expression()
                if self.accept(":"):
                    node = ("slice", node, first, self.expression())
                elif self.accept("+:"):
                    node = ("part", node, first, self.expression())
                else:
                    node = ("index", node, first)
                self.expect("]")
            else:
                return node

    def primary(self):
        group, text = self.next()
        if group == "cast":
            self.expect("(")
            inner = self.expression()
            self.expect(")")
            size, kind = text.split("'")
            return ("cast", kind.lower(), int(size), inner)
        if group == "sized":
            size, rest = text.split("'")
            if "." in rest:
                return ("literal", floats.of("f" + size, Fraction(rest)))
            return ("literal", Bits(int(rest.rstrip("UL"), 0), int(size)))
        if group == "real":
            fmt = "f32" if text.endswith("F") else "f64"
            return ("literal", floats.of(fmt, Fraction(text.rstrip("F"))))
        if group == "int":
            return ("literal", Bits(int(text.rstrip("UL"), 0), 64 if "LL" in text else 32, "U" not in text))
        if text == "(":
            inner = self.expression()
            self.expect(")")
            return inner
        if text == "{":
            parts = [self.expression()]
            while self.accept(","):
                parts.append(self.expression())
            self.expect("}")
            return ("join", parts)
        if group == "name":
            if self.accept("("):
                args = []
                while not self.accept(")"):
                    args.append(self.expression())
                    self.accept(",")
                return ("call", text, args)
            return ("name", text)
        raise Unsupported(f"token {text!r}")


class Break(Exception):
    pass


class Return(Exception):
    def __init__(self, value):
        self.value = value


class Array:
    def __init__(self, count, width, kind):
        self.cells = [0] * count
        self.width, self.kind = width, kind.lower()


class Run:
    """One run of a program. `registers` maps names (S0, D0, SCC, VCC, EXEC, laneId, ...) to (raw bits, width);
    `vgpr` is [lane][register] for the instructions that read other lanes; `library` runs other instructions."""

    def __init__(self, program, registers, library, vgpr=None, constants=None):
        self.program = program
        self.registers = dict(registers)
        self.variables = dict(constants or {})
        self.lambdas = {}
        self.library = library
        self.vgpr = vgpr
        self.towards_zero = False
        self.block(program)

    def raw(self, name):
        return self.registers[name][0]

    # statements

    def block(self, body):
        for statement in body:
            getattr(self, "do_" + statement[0])(*statement[1:])

    def do_if(self, arms, otherwise):
        for condition, body in arms:
            if self.truth(condition):
                return self.block(body)
        self.block(otherwise)

    def do_for(self, name, low, high, body):
        for i in range(self.number(low), self.number(high) + 1):
            self.variables[name] = Bits(i, 32, True)
            try:
                self.block(body)
            except Break:
                break

    def do_declare(self, name, width, kind, count):
        if name in ("S", "SRC0", "VDST", "DATA0", "OFFSET", "CVT_OFF_TABLE"):  # operands, given from outside
            return
        self.variables[name] = Array(count, width, kind) if count else Bits(0, width)

    def do_break(self):
        raise Break

    def do_return(self, value):
        raise Return(self.value(value))

    def do_lambda(self, name, args, body):
        self.lambdas[name] = (args, body)

    def do_expression(self, node):
        if node[0] == "call" and node[1] in ("nop", "s_nop"):
            return
        self.value(node)

    def do_assign(self, target, op, source):
        value = self.rounding(source) if target == ("name", "ROUND_MODE") else self.value(source)
        if op != "=":
            value = self.arithmetic(op[0], self.value(target), value)
        self.store(target, value)

    def do_both(self, first, second, source):
        value = self.value(source)
        self.store(first, value)
        self.store(second, value)

    def rounding(self, source):
        mode = source[1]
        if mode == "prev_mode":
            self.towards_zero = False
        elif mode in ("ROUND_TOWARD_ZERO", "ROUND_NEAREST_EVEN"):
            self.towards_zero = mode == "ROUND_TOWARD_ZERO"
        else:
            raise Unsupported(mode)
        return Bits(0, 4)

    def store(self, target, value):
        if target[0] == "join":
            total = 0
            for part in target[1]:
                total += stored_width(part)
            raw = raw_of(value)
            for part in target[1]:
                total -= stored_width(part)
                self.store(part, view("b", stored_width(part), raw >> total))
            return
        if target == ("name", "ROUND_MODE") or target[0] == "member" and target[1] == ("name", "TRAPSTS"):
            return
        node, fmt, low, width = target, None, 0, None
        if node[0] == "name":
            name = node[1]
            if name in self.registers:
                old, size = self.registers[name]
                self.registers[name] = (raw_of(value) & ((1 << size) - 1), size)
            elif isinstance(self.variables.get(name), Bits) and not isinstance(value, Float):
                self.variables[name] = value
            else:
                self.variables[name] = value
            return
        # the outermost accessors say which bits; the innermost what storage
        chain = []
        while node[0] in ("member", "index", "slice", "part"):
            chain.append(node)
            node = node[1]
        name = node[1]
        chain.reverse()
        cell = None
        if name == "VGPR":
            lane, register = self.number(chain[0][2]), self.number(chain[1][2])
            chain, cell = chain[2:], ("vgpr", lane, register)
        elif isinstance(self.variables.get(name), Array):
            index = self.number(chain[0][2])
            chain, cell = chain[1:], ("array", name, index)
        for node in chain:
            if node[0] == "member":
                m = VIEW.match(node[2])
                if not m:
                    raise Unsupported("store to ." + node[2])
                fmt = m
                size = int(m[2])
                width = size if width is None else min(width, size)
            elif node[0] == "index":
                low, width = low + self.number(node[2]), 1
            elif node[0] == "slice":
                high, bottom = self.number(node[2]), self.number(node[3])
                if high < bottom:
                    raise Unsupported("store to a reversed slice")
                low, width = low + bottom, high - bottom + 1
            else:
                raise Unsupported("store to +:")
        if isinstance(value, Float) and fmt and fmt[1] in ("f", "bf"):
            value = floats.convert(value, float_name(fmt[1], fmt[2]))
        raw = raw_of(value)
        if cell and cell[0] == "vgpr":
            old, size = self.vgpr[cell[1]].get(cell[2], 0), 32
        elif cell:
            array = self.variables[name]
            old, size = array.cells[cell[2]], array.width
        elif name in self.registers:
            old, size = self.registers[name]
        else:
            v = self.variables.get(name, Bits(0, 0))
            old, size = raw_of(v), width_of(v)
        if width is None:
            width = size
        size = max(size, low + width) if not cell and name not in self.registers else size
        mask = ((1 << width) - 1) << low
        new = (old & ~mask | (raw << low) & mask) & ((1 << size) - 1)
        if cell and cell[0] == "vgpr":
            self.vgpr[cell[1]][cell[2]] = new
        elif cell:
            self.variables[name].cells[cell[2]] = new
        elif name in self.registers:
            self.registers[name] = (new, size)
        else:
            self.variables[name] = Bits(new, size)

    # expressions

    def truth(self, node):
        v = self.value(node)
        return v.truth() if isinstance(v, Bits) else not v.zero

    def number(self, node):
        v = self.value(node)
        if isinstance(v, Float):
            raise Unsupported("a float where an integer is needed")
        return v.value

    def value(self, node):
        return getattr(self, "get_" + node[0])(*node[1:])

    def get_literal(self, value):
        return value

    def get_name(self, name):
        if name in self.variables:
            v = self.variables[name]
            return v
        if name in self.registers:
            raw, width = self.registers[name]
            return Bits(raw, width)
        if name == "ROUND_MODE":
            return Bits(0, 4)
        if name == "EXEC_LO":
            return view("b", 32, self.raw("EXEC"))
        if name == "INF":
            return floats.infinity("f64")
        if name == "PI":
            return floats.of("f64", Fraction(math.pi))
        if name.startswith("MAX_FLOAT_F32"):
            return floats.decode("f32", 0x7F7FFFFF)
        raise Unsupported("name " + name)

    def get_choose(self, condition, yes, no):
        return self.value(yes if self.truth(condition) else no)

    def get_join(self, parts):
        raw = width = 0
        for part in parts:
            v = self.value(part)
            w = width_of(v)
            raw = raw << w | (raw_of(v) & ((1 << w) - 1))
            width += w
        return Bits(raw, width)

    def get_cast(self, kind, width, inner):
        v = self.value(inner)
        if kind in ("f", "bf"):
            fmt = float_name(kind, width)
            if isinstance(v, Float):
                return floats.convert(v, fmt, self.towards_zero)
            return floats.decode(fmt, raw_of(v) & ((1 << width) - 1))
        if isinstance(v, Float):
            v = Bits(floats.encode(v), width_of(v))
        return view(kind, width, v.value)

    def get_member(self, inner, member):
        if inner == ("name", "WAVE_MODE") and member == "IEEE":
            return self.variables["IEEE"]
        m = VIEW.match(member)
        if not m:
            raise Unsupported("." + member)
        kind, width = m[1], int(m[2])
        if inner == ("name", "EXEC_LO"):
            return view(kind, width, self.raw("EXEC"))
        if inner[0] == "name" and inner[1] in ("INF", "NAN"):
            fmt = kind + str(width)
            return floats.infinity(fmt) if inner[1] == "INF" else floats.nan(fmt)
        v = self.value(inner)
        if kind in ("f", "bf") and isinstance(v, Float):
            return floats.convert(v, float_name(kind, width))
        if isinstance(v, Float):
            return view(kind, width, floats.encode(v))
        if kind == "i" and v.signed and v.width < width:
            return Bits(v.value, width, True)
        return view(kind, width, v.value if v.value >= 0 else v.value)

    def get_index(self, inner, index):
        if inner[0] == "index" and inner[1] == ("name", "VGPR"):
            lane, register = self.number(inner[2]), self.number(index)
            if register not in self.vgpr[lane]:
                raise Unsupported(f"v{register} of lane {lane} has no value")
            return Bits(self.vgpr[lane][register], 32)
        i = self.number(index)
        v = self.value(inner)
        if isinstance(v, Array):
            return view(v.kind, v.width, v.cells[i])
        return Bits(raw_of(v) >> i & 1, 1)

    def get_slice(self, inner, first, last):
        raw = raw_of(self.value(inner))
        a, b = self.number(first), self.number(last)
        if a >= b:
            return Bits(raw >> b & ((1 << (a - b + 1)) - 1), a - b + 1)
        width = b - a + 1
        return Bits(sum((raw >> (a + i) & 1) << (width - 1 - i) for i in range(width)), width)

    def get_part(self, inner, low, width):
        raw = raw_of(self.value(inner))
        return view("u", self.number(width), raw >> self.number(low))

    def get_unary(self, op, inner):
        v = self.value(inner)
        if op == "!":
            return Bits(0 if self.truth(inner) else 1, 1)
        if isinstance(v, Float):
            return floats.neg(v) if op == "-" else v
        if op == "-":
            return Bits(-v.value, v.width, v.signed)
        if op == "~":
            return view("i" if v.signed else "u", v.width, ~v.value)
        return v

    def get_binary(self, op, left, right):
        if op == "&&":
            return Bits(int(self.truth(left) and self.truth(right)), 1)
        if op == "||":
            return Bits(int(self.truth(left) or self.truth(right)), 1)
        if op == "==" and right[0] == "member" and right[1] == ("name", "DENORM"):
            return Bits(int(floats.denormal(floats.convert(self.value(left), right[2]))), 1)
        a, b = self.value(left), self.value(right)
        if op == "==" and right[0] == "unary" and isinstance(b, Float) and b.zero:
            return Bits(int(a.zero and a.negative == b.negative), 1)  # "== +0.0" and "== -0.0" tell the zeros apart
        return self.arithmetic(op, a, b)

    def arithmetic(self, op, a, b):
        if isinstance(a, Float) or isinstance(b, Float):
            return self.float_arithmetic(op, a, b)
        x, y = a.value, b.value
        if op in ("==", "!=", "<>", "<", ">", "<=", ">="):
            r = {"==": x == y, "!=": x != y, "<>": x != y, "<": x < y, ">": x > y, "<=": x <= y, ">=": x >= y}[op]
            return Bits(int(r), 1)
        width, signed = max(a.width, b.width), a.signed and b.signed
        if op == "+":
            return Bits(x + y, width, signed)
        if op == "-":
            return Bits(x - y, width, signed)
        if op == "*":
            return Bits(x * y, width, signed)
        if op == "/":
            return Bits(x // y, width, signed)
        if op == "%":
            return Bits(x % y, width, signed)
        if op == "<<":
            return Bits(x << y, a.width, a.signed)
        if op == ">>":
            if not a.signed and x < 0:
                x &= (1 << a.width) - 1
            return Bits(x >> y, a.width, a.signed)
        if op in ("&", "|", "^"):
            if x < 0 and not a.signed:
                x &= (1 << a.width) - 1
            if y < 0 and not b.signed:
                y &= (1 << b.width) - 1
            r = x & y if op == "&" else x | y if op == "|" else x ^ y
            return Bits(r, width, signed)
        raise Unsupported("operator " + op)

    def float_arithmetic(self, op, a, b):
        if op == "**":
            return floats.of(a.format, a.value**b.value)
        if not isinstance(a, Float) or not isinstance(b, Float):
            raise Unsupported("float and integer")
        if op == "+":
            return floats.add(a, b)
        if op == "-":
            return floats.add(a, floats.neg(b))
        if op == "*":
            return floats.mul(a, b)
        if op == "/":
            return floats.div(a, b)
        unordered = a.nan or b.nan
        if op in ("!=", "<>"):
            # <> is "less or greater": false for NaN; != does not occur between floats
            return Bits(int(not unordered and compare(a, b) != 0), 1)
        c = 0 if unordered else compare(a, b)
        r = {"==": c == 0, "<": c < 0, ">": c > 0, "<=": c <= 0, ">=": c >= 0}[op]
        return Bits(int(r and not unordered), 1)

    def get_call(self, name, args):
        if name in self.lambdas:
            names, body = self.lambdas[name]
            saved = dict(self.variables)
            self.variables.update(zip(names, [self.value(a) for a in args]))
            try:
                self.block(body)
            except Return as result:
                return result.value
            finally:
                self.variables = saved
            raise Unsupported("lambda without a result")
        values = [self.value(a) for a in args]
        return function(name, values, self)


def stored_width(node):
    return int(VIEW.match(node[2])[2])


def compare(a, b):
    def key(x):
        if x.infinite:
            return (-1 if x.negative else 1, 0)
        return (0, x.value)

    return (key(a) > key(b)) - (key(a) < key(b))


def lowest_one(raw):
    return (raw & -raw).bit_length() - 1


CONVERT = re.compile(r"(bf16|[fui]\d+)_to_(bf16|[fui]\d+|snorm|unorm)$")


def function(name, values, run):
    a = values[0] if values else None
    simple = {
        "fma": floats.fma, "trunc": floats.trunc, "floor": floats.floor, "sqrt": floats.sqrt, "log2": floats.log2,
        "sin_turns": floats.sine_turns, "cos_turns": floats.cosine_turns, "mantissa": floats.mantissa,
        "round_even": floats.round_even,
    }
    if name in simple:
        return simple[name](*values)
    if name == "pow":
        return floats.exp2(values[1])
    if name == "fract":
        return floats.add(a, floats.neg(floats.floor(a)))
    if name == "abs":
        return floats.absolute(a)
    if name == "sign":
        return Bits(int(a.negative), 1)
    if name == "isNAN":
        return Bits(int(a.nan), 1)
    if name == "isQuietNAN":
        return Bits(int(a.nan and not a.signalling), 1)
    if name == "isSignalNAN":
        return Bits(int(a.nan and a.signalling), 1)
    if name == "cvtToQuietNAN":
        return floats.quiet(a)
    if name == "isEven":
        return Bits(int(a.magnitude is not None and a.value % 2 == 0), 1)
    if name == "exponent":
        return Bits(floats.exponent(a), 32, True)
    if name == "ldexp":
        return floats.ldexp(a, values[1].value)
    if name == "signext":
        return Bits(a.value, 64, True) if a.signed else view("i", a.width, a.value)
    if name == "signext_from_bit":
        bits = values[1].value
        low = a.value & ((1 << bits) - 1)
        return Bits(low - (1 << bits) if bits and low >> (bits - 1) else low, a.width, True)
    if name in ("s_ff1_i32_b32", "s_ff1_i32_b64"):
        return Bits(lowest_one(a.unsigned()), 32, True)
    if name == "v_cvt_i16_f32":
        return Bits(floats.to_int(a, 16, True), 16, True)
    if name == "v_cvt_u16_f32":
        return Bits(floats.to_int(a, 16, False), 16)
    m = CONVERT.match(name)
    if m:
        return converted(a, m[1], m[2], run.towards_zero)
    if name.startswith("v_"):
        return run.library(name, values)
    raise Unsupported("function " + name)


def converted(a, source, target, towards_zero):
    if isinstance(a, Float):
        if target in ("snorm", "unorm"):
            if a.nan:
                return Bits(0, 16, target == "snorm")
            low, scale = (-32767, 32767) if target == "snorm" else (0, 65535)
            if a.infinite:
                n = low if a.negative else scale
            else:
                n = max(low, min(scale, round(a.value * scale)))
            return Bits(n, 16, target == "snorm")
        if target[0] in "ui":
            width = int(target[1:])
            return Bits(floats.to_int(a, width, target[0] == "i"), width, target[0] == "i")
        return floats.convert(a, target, towards_zero)
    v = view(source[0], int(source[1:]), a.value) if a.width >= int(source[1:]) else a
    if target[0] in "ui":
        width, signed = int(target[1:]), target[0] == "i"
        if width < int(source[1:]):  # narrowing conversions saturate
            low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
            return Bits(max(low, min(high, v.value)), width, signed)
        return Bits(v.value, width, signed)
    return floats.of(target, v.value, towards_zero)


def parse(text):
    return Parser(text).block()
