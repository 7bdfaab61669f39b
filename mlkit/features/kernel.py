"""How every feature kernel is compiled: two decorators, one cache over all the sources, a few intrinsics.

Kernels release the GIL, divide as IEEE 754 does and keep strict floating-point order (no fastmath). They are
inlined into the one entry that serves batch and stream alike, so both run the same machine code and give the
same bits. They allocate nothing; numba's reference counting is therefore switched off.

The intrinsics tell the compiler what Python cannot say: which pieces of memory never overlap, how long they
are, and how memory is best written. `mlkit.features.lanes` adds numbers of eight bars at a time.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable
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
SOURCES = (
    "advance", "candles", "catalogue", "engine", "functions", "kernel", "lanes", "microstructure", "rolling", "rules",
    "state", "technical",
)  # fmt: skip


def sources_stamp(files: Iterable[Path]) -> tuple[str, int]:
    """Digest of all sources of a kernel; numba itself checks only the file of the function that it loads."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest(), 0


STAMP = sources_stamp(Path(__file__).with_name(f"{name}.py") for name in SOURCES)


def kernel(function: Kernel) -> Kernel:
    """A kernel that only other kernels call: inlined, without a Python face or a cache of its own."""
    inlined: Kernel = njit(forceinline=True, no_cpython_wrapper=True, **_OPTIONS)(function)
    return inlined


def entry(function: Callable[..., Any]) -> Any:
    """A kernel that Python calls: compiled once, then loaded from numba's cache until a source changes."""
    compiled = njit(cache=True, **_OPTIONS)(function)
    compiled._cache._cache_file._source_stamp = STAMP
    return compiled


def announce_compilation(compiled: Any, what: str = "feature kernels", seconds: int = 20) -> None:
    """Tell the user on standard error when the next call is going to compile for a while."""
    if not compiled.signatures and not Path(compiled._cache._cache_file._index_path).exists():
        print(f"mlkit: compiling the {what} once, about {seconds} seconds", file=sys.stderr, flush=True)


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
        with builder.goto_entry_block():
            place = builder.alloca(memory)  # cgutils.alloca_once would fill it with zeros
        place.align = 64  # a line of the processor's cache
        data = builder.bitcast(place, context.get_data_type(kind.dtype).as_pointer())
        return _array(context, builder, kind, data, [context.get_constant(types.intp, length.literal_value)])

    return kind(length, like), build


LANES = 4  # the quantities of a window come in fours
TINY = 1e-300  # a divisor up to here is none


@intrinsic
def copy(_, out, i, a, j, count):  # type: ignore[no-untyped-def]
    """``out[i : i + count] = a[j : j + count]`` of two vectors, or of matrices by their flat index."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, source = (
            builder.gep(
                make_array(signature.args[n])(context, builder, arguments[n]).data, [arguments[n + 1]], inbounds=True
            )
            for n in (0, 2)
        )
        size = signature.args[0].dtype.bitwidth // 8
        count = builder.mul(arguments[4], ir.IntType(64)(size))
        cgutils.raw_memcpy(builder, to, source, count, 1, align=size)
        return context.get_dummy_value()

    return types.void(out, types.intp, a, types.intp, types.intp), build


LINE = 16  # float32 in a line of the processor's cache


@intrinsic
def place_in_line(_, out, i):  # type: ignore[no-untyped-def]
    """How many float32 of its line of memory lie before ``out.flat[i]``."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = builder.gep(make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        number = builder.lshr(builder.ptrtoint(data, ir.IntType(64)), ir.IntType(64)(2))
        return builder.and_(number, ir.IntType(64)(LINE - 1))

    return types.intp(out, types.intp), build


@intrinsic
def write_line(_, out, i, rows, j):  # type: ignore[no-untyped-def]
    """``out.flat[i : i + 16] = rows[j : j + 16]``, a whole line of memory, which is written without being read."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        line = ir.VectorType(ir.FloatType(), LINE)
        to, source = (
            builder.bitcast(
                builder.gep(make_array(signature.args[n])(context, builder, arguments[n]).data, [arguments[n + 1]]),
                line.as_pointer(),
            )
            for n in (0, 2)
        )
        done = builder.store(builder.load(source, align=64), to, align=64)
        done.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(out, types.intp, rows, types.intp), build


@intrinsic
def settle(_):  # type: ignore[no-untyped-def]
    """Wait until every line that was written can be seen by other threads."""

    def build(context, builder, _signature, _arguments):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), build
