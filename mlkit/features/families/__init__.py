"""The built-in features, a file a family or two. Each feature is one entry: name, formula, range, warm-up, source and
the function that computes it. Price levels enter as ratios; where a formula has no information (no range, no volume, no
variance) it gives the neutral value that it states, never inf.
"""
