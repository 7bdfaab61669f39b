"""Numbers of consecutive bars worked on together: eight float64, one lane for each bar.

To the kernels `Lanes` are a number: the arithmetic, comparisons, ``min``, ``max`` and ``abs`` of numba work on
them, lane by lane and exactly as on one number. A comparison gives a mask; `choose` takes the place of ``if``.
What a lane holds depends on no other lane, so a new bar alone in its block gets the bits that it gets in a
history. A processor works on eight lanes in little more than the time of one.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model
from numba.np.arrayobj import make_array

WIDTH = 8  # lanes

#: To a type checker lanes are numbers and a mask is a bool, as formulas written for one bar read.
Lanes = float
Mask = bool
Shelf = Any  # of `shelf`

_DOUBLES = ir.VectorType(ir.DoubleType(), WIDTH)
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_BITS = ir.VectorType(ir.IntType(1), WIDTH)


class _LanesType(types.Type):  # type: ignore[misc]
    """Numba's type of eight float64."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


class _MaskType(types.Type):  # type: ignore[misc]
    """Numba's type of eight truths."""

    def __init__(self) -> None:
        super().__init__(name="Mask")


class _ShelfType(types.Type):  # type: ignore[misc]
    """Numba's type of `shelf`."""

    def __init__(self, pitch: int) -> None:
        self.pitch = pitch
        super().__init__(name=f"Shelf({pitch})")


lanes, mask = _LanesType(), _MaskType()


def _modelled(kind: Any, vector: Any) -> None:
    @register_model(kind)
    class _Model(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, vector)


_modelled(_LanesType, _DOUBLES)
_modelled(_MaskType, _BITS)
_modelled(_ShelfType, ir.DoubleType().as_pointer())


def _all(builder: Any, number: Any) -> Any:
    """A float64 in every lane."""
    one = builder.insert_element(ir.Constant(_DOUBLES, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(
        one, ir.Constant(_DOUBLES, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    )


def _constant(number: float) -> Any:
    return ir.Constant(_DOUBLES, [number] * WIDTH)


def _wide(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Lanes, or a number in every lane."""
    return value if kind is lanes else _all(builder, context.cast(builder, value, kind, types.float64))


def _operation(function: Any, formula: Callable[..., Any], result: Any = lanes) -> None:
    """Teach numba an operator of two, of which at least one is lanes."""
    pairs = [(lanes, lanes), (lanes, types.float64), (types.float64, lanes)]

    @infer_global(function)
    class _Template(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(result, *pair) for pair in pairs]  # noqa: RUF012

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values = zip(signature.args, arguments, strict=True)
        return formula(builder, *(_wide(context, builder, kind, value) for kind, value in values))

    for pair in pairs:
        lower_builtin(function, *pair)(build)


def _of_one(function: Any, kind: Any, formula: Callable[..., Any]) -> None:
    """Teach numba an operator of one."""

    @infer_global(function)
    class _Template(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(kind, kind)]  # noqa: RUF012

    @lower_builtin(function, kind)
    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return formula(builder, arguments[0])


def _of_masks(function: Any, formula: Callable[..., Any]) -> None:
    @infer_global(function)
    class _Template(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(mask, mask, mask)]  # noqa: RUF012

    @lower_builtin(function, mask, mask)
    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return formula(builder, *arguments)


def _vector_call(builder: Any, name: str, *values: Any) -> Any:
    """LLVM's own function of that name, on lanes."""
    kind = ir.FunctionType(_DOUBLES, [_DOUBLES] * len(values))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{WIDTH}f64")
    return builder.call(function, values)


_operation(operator.add, lambda builder, a, b: builder.fadd(a, b))
_operation(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_operation(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_operation(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
_operation(max, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", b, a), b, a))
_operation(min, lambda builder, a, b: builder.select(builder.fcmp_ordered("<", b, a), b, a))
for _function, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
):
    _operation(_function, lambda builder, a, b, sign=_sign: builder.fcmp_ordered(sign, a, b), mask)
_of_one(operator.neg, lanes, lambda builder, a: builder.fneg(a))
_of_one(abs, lanes, lambda builder, a: _vector_call(builder, "fabs", a))
_of_masks(operator.and_, lambda builder, a, b: builder.and_(a, b))
_of_masks(operator.or_, lambda builder, a, b: builder.or_(a, b))


@intrinsic
def choose(_, where, yes, no):  # type: ignore[no-untyped-def]
    """Lane by lane ``yes if where else no``."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values = [_wide(context, builder, signature.args[k], arguments[k]) for k in (1, 2)]
        return builder.select(arguments[0], *values)

    yes, no = (lanes if kind is lanes else types.float64 for kind in (yes, no))
    return lanes(mask, yes, no), build


@intrinsic
def root(_, number):  # type: ignore[no-untyped-def]
    """Square root, of none below 0."""
    return lanes(number), lambda _context, builder, _signature, values: _vector_call(builder, "sqrt", *values)


@intrinsic
def fused(_, a, b, c):  # type: ignore[no-untyped-def]
    """``a * b + c`` rounded once."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values = zip(signature.args, arguments, strict=True)
        return _vector_call(builder, "fma", *(_wide(context, builder, kind, value) for kind, value in values))

    a, b, c = (lanes if kind is lanes else types.float64 for kind in (a, b, c))
    return lanes(a, b, c), build


@intrinsic
def rising(_, first):  # type: ignore[no-untyped-def]
    """first, first + 1, ... first + 7 as numbers."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        first = context.cast(builder, arguments[0], signature.args[0], types.float64)
        return builder.fadd(_all(builder, first), ir.Constant(_DOUBLES, [float(k) for k in range(WIDTH)]))

    return lanes(types.intp), build


def _pointer(context: Any, builder: Any, kind: Any, array: Any, start: Any, vector: Any = _DOUBLES) -> Any:
    data = builder.gep(make_array(kind)(context, builder, array).data, [start], inbounds=True)
    return builder.bitcast(data, vector.as_pointer())


@intrinsic
def fetch(_, vector, start):  # type: ignore[no-untyped-def]
    """``vector[start : start + 8]`` as lanes."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=8)

    return lanes(vector, types.intp), build


@intrinsic
def store(_, vector, start, values):  # type: ignore[no-untyped-def]
    """``vector[start : start + 8] = values``."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        value = _wide(context, builder, signature.args[2], arguments[2])
        builder.store(value, _pointer(context, builder, signature.args[0], *arguments[:2]), align=8)
        return context.get_dummy_value()

    return types.void(vector, types.intp, lanes if values is lanes else types.float64), build


@intrinsic(prefer_literal=True)
def shelf(_, vector, start, pitch):  # type: ignore[no-untyped-def]
    """Lanes by number: ``shelf(x, start, pitch)[k]`` are the numbers ``x[start + k * pitch :][:8]``, to read or set."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        start = context.cast(builder, arguments[1], signature.args[1], types.intp)
        return builder.gep(make_array(signature.args[0])(context, builder, arguments[0]).data, [start], inbounds=True)

    return _ShelfType(pitch.literal_value)(vector, start, pitch), build


@infer_global(operator.getitem)
class _GetTemplate(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args, _kws):  # type: ignore[no-untyped-def]
        return signature(lanes, args[0], types.intp) if isinstance(args[0], _ShelfType) else None


@infer_global(operator.setitem)
class _SetTemplate(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args, _kws):  # type: ignore[no-untyped-def]
        if not isinstance(args[0], _ShelfType):
            return None
        return signature(types.void, args[0], types.intp, lanes if args[2] is lanes else types.float64)


def _place(builder: Any, kind: _ShelfType, shelf: Any, number: Any) -> Any:
    pointer = builder.gep(shelf, [builder.mul(number, ir.IntType(64)(kind.pitch))], inbounds=True)
    return builder.bitcast(pointer, _DOUBLES.as_pointer())


@lower_builtin(operator.getitem, _ShelfType, types.intp)
def _get(_context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    return builder.load(_place(builder, signature.args[0], *arguments), align=8)


@lower_builtin(operator.setitem, _ShelfType, types.intp, lanes)
@lower_builtin(operator.setitem, _ShelfType, types.intp, types.float64)
def _set(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    value = _wide(context, builder, signature.args[2], arguments[2])
    builder.store(value, _place(builder, signature.args[0], *arguments[:2]), align=8)
    return context.get_dummy_value()


def _mixed(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    """Elements of two vectors by their place in the two of them laid end to end."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Columns of a square of `WIDTH` rows, by three rounds of exchanging between pairs of rows."""
    for step in (1, 2, 4):
        low = [k if not k & step else k - step + WIDTH for k in range(WIDTH)]
        high = [k + step if not k & step else k + WIDTH for k in range(WIDTH)]
        rows = [
            _mixed(builder, rows[k], rows[k + step], low)
            if not k & step
            else _mixed(builder, rows[k - step], rows[k], high)
            for k in range(WIDTH)
        ]
    return rows


@intrinsic
def behind(_, past, now):  # type: ignore[no-untyped-def]
    """Each bar's number one bar ago, given those of the eight bars before the block and of the block.

    A processor waits when it reads again what it has just written in other portions; this spares it the reading.
    """

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return _mixed(builder, arguments[0], arguments[1], list(range(WIDTH - 1, 2 * WIDTH - 1)))

    return lanes(past, now), build


@intrinsic
def turn(_, source, start, stride, target, to, step):  # type: ignore[no-untyped-def]
    """``target[to + step * j + i] = source[start + stride * i + j]`` for i and j from 0 to 7."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, start, stride, target, to, step = arguments

        def at(array: Any, kind: Any, start: Any, stride: Any, k: int) -> Any:
            return _pointer(context, builder, kind, array, builder.add(start, builder.mul(stride, ir.IntType(64)(k))))

        rows = [builder.load(at(source, signature.args[0], start, stride, k), align=8) for k in range(WIDTH)]
        for k, column in enumerate(_turned(builder, rows)):
            builder.store(column, at(target, signature.args[3], to, step, k), align=8)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), build


@intrinsic
def put(_, columns, start, values):  # type: ignore[no-untyped-def]
    """Round a tuple of lanes to float32, each to its column: ``columns[8 (start + k) :] = values[k]``."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        for k, value in enumerate(cgutils.unpack_tuple(builder, arguments[2])):
            at = builder.mul(builder.add(arguments[1], ir.IntType(64)(k)), ir.IntType(64)(WIDTH))
            pointer = _pointer(context, builder, signature.args[0], arguments[0], at, _FLOATS)
            builder.store(builder.fptrunc(value, _FLOATS), pointer, align=4)
        return context.get_dummy_value()

    return types.void(columns, types.intp, values), build


@intrinsic
def turn_columns(_, columns, first, out, to, step):  # type: ignore[no-untyped-def]
    """Eight columns of `put` from ``first`` on into eight rows of float32, ``step`` apart."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        columns, first, out, to, step = arguments
        eight = ir.IntType(64)(WIDTH)
        at = [builder.mul(builder.add(first, ir.IntType(64)(k)), eight) for k in range(WIDTH)]
        places = [_pointer(context, builder, signature.args[0], columns, k, _FLOATS) for k in at]
        rows = _turned(builder, [builder.load(place, align=4) for place in places])
        for k, row in enumerate(rows):
            place = builder.add(to, builder.mul(step, ir.IntType(64)(k)))
            builder.store(row, _pointer(context, builder, signature.args[2], out, place, _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(columns, types.intp, out, types.intp, types.intp), build


_WHOLES = ir.VectorType(ir.IntType(64), WIDTH)
_HALF_ROOT = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)
_ONE = 0x3FF0000000000000  # the bits of 1
_MAGIC = 6755399441055744.0  # 1.5 x 2^52: added to a small number, it leaves the nearest whole one in the last bits


def _bits(number: int) -> Any:
    return ir.Constant(_WHOLES, [number] * WIDTH)


def _since_half_root(builder: Any, value: Any) -> Any:
    """Bits of a number, shifted so that the exponent changes at the powers of 2 times sqrt(1/2)."""
    return builder.add(builder.bitcast(value, _WHOLES), _bits(_ONE - _HALF_ROOT))


@intrinsic
def exponent_of(_, number):  # type: ignore[no-untyped-def]
    """k of ``number = 2^k x`` with x from sqrt(1/2) to sqrt(2), for a normal number above 0."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        k = builder.lshr(_since_half_root(builder, arguments[0]), _bits(52))
        shifted = builder.bitcast(builder.or_(k, _bits(0x4330000000000000)), _DOUBLES)  # 2^52 + k
        return builder.fsub(shifted, _constant(2.0**52 + 1023.0))

    return lanes(number), build


@intrinsic
def fraction_of(_, number):  # type: ignore[no-untyped-def]
    """x of `exponent_of`."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        fraction = builder.and_(_since_half_root(builder, arguments[0]), _bits(0x000FFFFFFFFFFFFF))
        return builder.bitcast(builder.add(fraction, _bits(_HALF_ROOT)), _DOUBLES)

    return lanes(number), build


@intrinsic
def whole(_, number):  # type: ignore[no-untyped-def]
    """The nearest whole number, of numbers below 2^51."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fsub(builder.fadd(arguments[0], _constant(_MAGIC)), _constant(_MAGIC))

    return lanes(number), build


@intrinsic
def two_to(_, number):  # type: ignore[no-untyped-def]
    """2 to a whole power from -1022 to 1023."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        k = builder.bitcast(builder.fadd(arguments[0], _constant(_MAGIC + 1023.0)), _WHOLES)
        return builder.bitcast(builder.shl(k, _bits(52)), _DOUBLES)

    return lanes(number), build
