"""Bars from exchanges and their archives into the lake."""

# Read Binance's candle archive into the lake, month by month; what the lake has already is left out.
from .archive import fetch_archive as fetch_archive

# Collect closed bars from an exchange into the lake; calling it again resumes and continues.
from .fetch import fetch_bars as fetch_bars

# Yield newly closed bars, each once and in order, after committing them to the lake.
from .polling import follow as follow

# A callback that shows one tqdm line a symbol, with bars, rate and time left: standard error or notebook.
from .progress_lines import ProgressLines as ProgressLines

# A time to the minute, or a dash.
from .progress_lines import utc as utc
