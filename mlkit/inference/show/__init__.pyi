"""An insight as card, chart, terminal text and live panel."""

# The live panel of a market, as a widget that renews its insight while it is in view.
from .live_panel import panel as panel

# The insight as aligned lines for a terminal of 100 columns.
from .terminal import insight_table as insight_table
