"""Level 1: bars, checked once where they enter; their sources, calendars and outages."""

# Count gaps, outages, frozen prices, wicks, split-like jumps and bars without volume in valid bars.
from .bar_quality import quality as quality

# Names of the columns of bars, in their order.
from .bars import COLUMNS as COLUMNS

# Open, high, low, close and volume of one bar from numbers of any type or text; BarsError for what is no bar.
from .bars import bar_values as bar_values

# The trading calendar of valid bars.
from .bars import calendar_of as calendar_of

# Hex SHA-256 of the bars: timeframe, index (int64 ns) and the five columns, not the symbol.
from .bars import fingerprint as fingerprint

# Assemble bars from parts known to be valid: UTC open times and (5, n_bars) values, not copied.
from .bars import make_bars as make_bars

# Open, high, low, close, volume as private contiguous float64 arrays, (n_bars,) each, for kernels.
from .bars import ohlcv_arrays as ohlcv_arrays

# Bar open times in ns since the epoch, (n_bars,).
from .bars import open_times as open_times

# Decimals that show the lowest price with 5 significant digits, at least 2.
from .bars import price_decimals as price_decimals

# Check the Bars contract and return a copy in canonical form; frame is left as it is.
from .bars import validate_bars as validate_bars

# Calendar: sessions of one market; open and closed time between instants, close of a bar, expected bars.
from .calendar import ALWAYS_OPEN as ALWAYS_OPEN
from .calendar import INSIDE as INSIDE
from .calendar import LONG_CLOSE as LONG_CLOSE
from .calendar import NIGHT as NIGHT
from .calendar import Calendar as Calendar
from .calendar import calendar_names as calendar_names
from .calendar import get_calendar as get_calendar
from .calendar_choice import choose_calendar as choose_calendar

# The grids (from midnight or the session's open) on which open times lie.
from .grids import fitting_grids as fitting_grids

# Bars kept by (symbol, timeframe) in a local folder or behind an fsspec URL.
from .lake import BarStore as BarStore

# Type of max_gap: a length of time, "auto", "memory" or None.
from .outages import MaxGap as MaxGap

# Whether more than memory_gap is missing between two neighbours; open times and a bar's length in ns.
from .outages import forgotten as forgotten

# How many bars before each one its features may use, int64 (n_bars,); validated bars are expected.
from .outages import memory_ages as memory_ages

# Rows at which features start anew, int64, the first of them 0; validated bars are expected.
from .outages import memory_starts as memory_starts

# Whether an outage lies between each bar and the next, from open times, timeframe and calendar.
from .outages import outage_gaps as outage_gaps

# The bars in pieces without an outage, oldest first; no window or label may reach from one into the next.
from .outages import segments as segments

# Number of the run without an outage that each bar belongs to, int64 (n_bars,), counted from 0.
from .outages import unbroken_runs as unbroken_runs

# Bars of a larger timeframe: first open, highest high, lowest low, last close, summed volume.
from .resampling import resample as resample

# A market (planted_edge) of n_bars whose character changes with bar at.
from .simulate import regime_change as regime_change

# The built-in daily series, SP500 and NASDAQ.
from .sources import BUILT_IN as BUILT_IN

# Every (symbol, timeframe) that load_bars can load: the built-in series, then the lake's, sorted.
from .sources import available as available

# Add the bars of a file, of all files of a folder, or of a frame to the lake, in one commit.
from .sources import import_bars as import_bars

# Add the bars of several markets to the lake, each under its own name.
from .sources import import_markets as import_markets

# Bars by name: the built-in SP500 and NASDAQ at 1d (from arch), else those of the lake.
from .sources import load_bars as load_bars

# Read bars from a file or a frame in memory, strictly: nothing is repaired.
from .sources import read_bars as read_bars

# Make a market of the lake exactly these bars: what was there under its name is replaced.
from .sources import save_bars as save_bars

# One row for each market of the lake: number of bars, span, age, completeness, source.
from .status import data_status as data_status

# Returns a symbol that is accepted as a label and folder name; ConfigError otherwise.
from .symbols import check_symbol as check_symbol

# symbol as one folder name: every character but letters, digits, . _ - percent-encoded.
from .symbols import symbol_folder as symbol_folder

# Names of the timeframes and their lengths.
from .times import TIMEFRAMES as TIMEFRAMES

# Open time of one bar in ns since the epoch: a datetime, ISO 8601 text, or an epoch number of any unit.
from .times import bar_time as bar_time

# The same of the next bar of a stream; BarsError unless it is on the grid and later than the last one.
from .times import time_after as time_after

# Length of one bar; ConfigError for an unknown timeframe.
from .times import timeframe_delta as timeframe_delta

# Length of one bar in nanoseconds.
from .times import timeframe_ns as timeframe_ns

# The symbols of a file in its order: one a line, # begins a comment, blank lines are left out.
from .universe import read_universe as read_universe
