"""What `bench.py` measures: the cases, their sides, and what is made of the numbers."""
