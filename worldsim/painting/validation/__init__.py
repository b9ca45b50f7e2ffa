"""Validation: refuses broken views of painted places.

- ``validator`` (start here) compares measurements with thresholds from real places.
- ``checks``: the measurements.
"""
