"""The embedded sample, made by ``scripts/make_demo_data.py``, and the demo that runs the whole loop on it."""
