"""How every feature kernel is compiled: two decorators, one cache over all the sources, a few intrinsics.

Kernels release the GIL, divide as IEEE 754 does and keep strict floating-point order (no fastmath). They are
inlined into the one entry that serves batch and stream alike, so both run the same machine code and give the
same bits. They allocate nothing; numba's reference counting is therefore switched off.

The intrinsics tell the compiler what Python cannot say: which pieces of memory never overlap, how long they
are, and which numbers to work on four at a time. That more than doubles the speed.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


#: The modules that hold kernels, or constants that kernels are compiled with.
SOURCES = ("catalogue", "engine", "kernel", "market", "pattern", "rolling", "rules", "state", "technical")


def _sources_stamp() -> tuple[str, int]:
    """Digest of every kernel source; numba itself checks only the file of the function that it loads."""
    folder = Path(__file__).parent
    digest = hashlib.sha256(b"".join((folder / f"{name}.py").read_bytes() for name in SOURCES))
    return digest.hexdigest(), 0


STAMP = _sources_stamp()


def kernel(function: Kernel) -> Kernel:
    """A kernel that only other kernels call: inlined, without a Python face or a cache of its own."""
    inlined: Kernel = njit(forceinline=True, no_cpython_wrapper=True, **_OPTIONS)(function)
    return inlined


def entry(function: Callable[..., Any]) -> Any:
    """A kernel that Python calls: compiled once, then loaded from numba's cache until a source changes."""
    compiled = njit(cache=True, **_OPTIONS)(function)
    compiled._cache._cache_file._source_stamp = STAMP
    return compiled


def announce_compilation(compiled: Any) -> None:
    """Tell the user on standard error when the next call is going to compile for a while."""
    if not compiled.signatures and not Path(compiled._cache._cache_file._index_path).exists():
        print("mlkit: compiling the feature kernels once, about 20 seconds", file=sys.stderr, flush=True)


def _array(context: Any, builder: Any, kind: Any, data: Any, shape: Any) -> Any:
    """An array over memory that somebody else owns."""
    array = make_array(kind)(context, builder)
    size = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
    strides = [size]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(array, data, shape, strides, context.get_constant(types.intp, kind.dtype.bitwidth // 8), None)
    return array._getvalue()


@intrinsic
def view(_, vector, start, shape):  # type: ignore[no-untyped-def]
    """``vector[start : start + size].reshape(shape)``, of a constant place and size when these are."""
    kind = types.Array(vector.dtype, len(shape), "C")

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source = make_array(signature.args[0])(context, builder, arguments[0])
        data = builder.gep(source.data, [arguments[1]], inbounds=True)
        return _array(context, builder, kind, data, cgutils.unpack_tuple(builder, arguments[2]))

    return kind(vector, types.intp, shape), build


@intrinsic(prefer_literal=True)
def local(_, length, like):  # type: ignore[no-untyped-def]
    """An uninitialised array on the stack, of constant length and the type of the array ``like``."""
    kind = types.Array(like.dtype, 1, "C")

    def build(context, builder, _signature, _arguments):  # type: ignore[no-untyped-def]
        memory = ir.ArrayType(context.get_data_type(kind.dtype), length.literal_value)
        data = builder.bitcast(cgutils.alloca_once(builder, memory), context.get_data_type(kind.dtype).as_pointer())
        return _array(context, builder, kind, data, [context.get_constant(types.intp, length.literal_value)])

    return kind(length, like), build


LANES = 4  # numbers worked on at a time by the intrinsics below
TINY = 1e-300  # a divisor up to here is none


def _lanes(context: Any, builder: Any, kind: Any, array: Any, start: Any) -> Any:
    """Pointer to `LANES` consecutive numbers of an array."""
    data = builder.gep(make_array(kind)(context, builder, array).data, [start], inbounds=True)
    return builder.bitcast(data, ir.VectorType(data.type.pointee, LANES).as_pointer())


@intrinsic
def put(_, row, start, values):  # type: ignore[no-untyped-def]
    """``row[start : start + len(values)] = values`` for a tuple of float64 and a row of float32."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        numbers = cgutils.unpack_tuple(builder, arguments[2])
        for k in range(0, len(numbers) - LANES + 1, LANES):
            four = ir.Constant(ir.VectorType(ir.DoubleType(), LANES), ir.Undefined)
            for lane in range(LANES):
                four = builder.insert_element(four, numbers[k + lane], ir.IntType(32)(lane))
            at = builder.add(arguments[1], ir.IntType(64)(k))
            rounded = builder.fptrunc(four, ir.VectorType(ir.FloatType(), LANES))
            builder.store(rounded, _lanes(context, builder, signature.args[0], arguments[0], at), align=4)
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        for k in range(len(numbers) // LANES * LANES, len(numbers)):
            at = builder.add(arguments[1], ir.IntType(64)(k))
            builder.store(builder.fptrunc(numbers[k], ir.FloatType()), builder.gep(data, [at], inbounds=True))
        return context.get_dummy_value()

    return types.void(row, types.intp, values), build


def _by_lanes(formula: Callable[..., Any], context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The tuple that ``formula`` makes of tuples of one length, `LANES` numbers at a time."""
    columns = [cgutils.unpack_tuple(builder, argument) for argument in arguments]
    results: list[Any] = []
    for k in range(0, len(columns[0]), LANES):
        size = min(LANES, len(columns[0]) - k)
        done = formula(builder, *(_pack(builder, numbers[k : k + size]) for numbers in columns))
        results += [builder.extract_element(done, ir.IntType(32)(lane)) for lane in range(size)]
    return context.make_tuple(builder, signature.return_type, results)


def _pack(builder: Any, numbers: Any) -> Any:
    """Up to `LANES` float64 as one vector; lanes to spare hold 1, which is safe to divide by."""
    vector = ir.Constant(ir.VectorType(ir.DoubleType(), LANES), [1.0] * LANES)
    for lane, number in enumerate(numbers):
        vector = builder.insert_element(vector, number, ir.IntType(32)(lane))
    return vector


@intrinsic
def inverses(_, numbers):  # type: ignore[no-untyped-def]
    """``1 / b`` of each number of a tuple, and 0 where b is not above `TINY`.

    A processor divides, and takes roots of, four numbers in the time of one; compilers do not pair up divisions
    by themselves. So a formula sheet inverts its divisors in one go.
    """

    def inverse(builder, b):  # type: ignore[no-untyped-def]
        tiny, zero, one = (ir.Constant(b.type, [number] * LANES) for number in (TINY, 0.0, 1.0))
        some = builder.fcmp_ordered(">", b, tiny)
        return builder.fdiv(builder.select(some, one, zero), builder.select(some, b, one))

    return numbers(numbers), partial(_by_lanes, inverse)


@intrinsic
def quotients(_, tops, bottoms):  # type: ignore[no-untyped-def]
    """``a / b`` of each pair of two tuples; every b is known to be above 0."""
    return tops(tops, bottoms), partial(_by_lanes, lambda builder, a, b: builder.fdiv(a, b))


@intrinsic
def shares(_, tops, bottoms):  # type: ignore[no-untyped-def]
    """``(a - b) / b`` of each pair of two tuples; every b is known to be above 0."""
    return tops(tops, bottoms), partial(_by_lanes, lambda builder, a, b: builder.fdiv(builder.fsub(a, b), b))


@intrinsic
def roots(_, numbers):  # type: ignore[no-untyped-def]
    """Square root of each number of a tuple, none below 0."""

    def root(builder, numbers):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(numbers.type, [numbers.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{LANES}f64"), [numbers])

    return numbers(numbers), partial(_by_lanes, root)


@intrinsic
def put_relative(_, row, start, bar, base, per_base):  # type: ignore[no-untyped-def]
    """``row[start : start + 4] = (bar[:4] - base) * per_base`` for a row of float32."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        four = builder.load(_lanes(context, builder, signature.args[2], arguments[2], ir.IntType(64)(0)), align=8)
        base, per_base = (_pack(builder, [number] * LANES) for number in arguments[3:])
        relative = builder.fmul(builder.fsub(four, base), per_base)
        rounded = builder.fptrunc(relative, ir.VectorType(ir.FloatType(), LANES))
        builder.store(rounded, _lanes(context, builder, signature.args[0], arguments[0], arguments[1]), align=4)
        return context.get_dummy_value()

    return types.void(row, types.intp, bar, types.float64, types.float64), build


@intrinsic(prefer_literal=True)
def sum_distances(_, vector, start, count, centre):  # type: ignore[no-untyped-def]
    """Sum of ``abs(vector[start : start + count] - centre)`` for a constant count, at least `LANES`.

    Each lane adds up its own numbers; one sum over all would wait for each addition before the next.
    """

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.VectorType(ir.DoubleType(), LANES)
        function = ir.FunctionType(kind, [kind])
        absolute = cgutils.get_or_insert_function(builder.module, function, f"llvm.fabs.v{LANES}f64")
        centre, whole = _pack(builder, [arguments[3]] * LANES), count.literal_value // LANES * LANES
        total = ir.Constant(kind, [0.0] * LANES)
        for k in range(0, count.literal_value, LANES):
            # A last stretch that is not full is read as a full one that ends with the window: what it repeats
            # of the stretch before counts 0.
            at = builder.add(arguments[1], ir.IntType(64)(min(k, count.literal_value - LANES)))
            four = builder.load(_lanes(context, builder, signature.args[0], arguments[0], at), align=8)
            distance = builder.call(absolute, [builder.fsub(four, centre)])
            fresh = [float(lane >= LANES - (count.literal_value - k)) for lane in range(LANES)]
            total = builder.fadd(total, distance if k < whole else builder.fmul(distance, ir.Constant(kind, fresh)))
        low, high = (_sum_of_two(builder, total, lane) for lane in (0, 2))
        return builder.fadd(low, high)

    return types.float64(vector, types.intp, count, types.float64), build


def _sum_of_two(builder: Any, vector: Any, lane: int) -> Any:
    """Sum of a lane and the next."""
    first, second = (builder.extract_element(vector, ir.IntType(32)(k)) for k in (lane, lane + 1))
    return builder.fadd(first, second)


def _four(formula: Callable[..., Any]) -> Any:
    """Intrinsic ``(out, i, a, j, b, k)``: `LANES` numbers of ``out`` from i on become formula(out, a, b)."""

    def typing(_, out, i, a, j, b, k):  # type: ignore[no-untyped-def]
        def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            at = [_lanes(context, builder, signature.args[n], arguments[n], arguments[n + 1]) for n in (0, 2, 4)]
            values = [builder.load(pointer, align=8) for pointer in at]
            builder.store(formula(builder, *values), at[0], align=8)
            return context.get_dummy_value()

        return types.void(out, types.intp, a, types.intp, b, types.intp), build

    return intrinsic(typing)


#: ``out[i : i + 4] = a[j : j + 4] + b[k : k + 4]``
add_four = _four(lambda builder, out, a, b: builder.fadd(a, b))
#: ``out[i : i + 4] += b[k : k + 4] * (a[j : j + 4] - out[i : i + 4])``
approach_four = _four(lambda builder, out, a, b: builder.fadd(out, builder.fmul(b, builder.fsub(a, out))))
