"""The yardstick by which all models are scored: scores, comparison, table, figures and page.

It sees models through `sample` alone, and knows nothing of how they work.
"""
