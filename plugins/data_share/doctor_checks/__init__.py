"""The checks of :mod:`data_share.doctor`: one module for each side, and what they have in common."""
