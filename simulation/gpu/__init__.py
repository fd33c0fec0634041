"""What bench/gpu.py does on a GPU, and the tests small on a CPU."""
