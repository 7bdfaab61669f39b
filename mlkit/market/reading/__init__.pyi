"""Files and frames to bars: read strictly, or repaired with a count of every change."""

# Make valid bars of an untidy frame, counting every repair; frame is left as it is.
from .rows import repair_bars as repair_bars
