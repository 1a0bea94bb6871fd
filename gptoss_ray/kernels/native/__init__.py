"""The C++ kernels for CPUs: built into one library, packed weights, and `NativeKernels` that calls them."""
