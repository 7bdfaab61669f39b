"""An insight as card, chart, terminal text and live panel."""

# The live panel of a market, as a widget: shows the newest insight and asks again while somebody looks.
from .live_panel import panel as panel

# Lines for a terminal of 100 columns.
from .terminal import insight_table as insight_table
