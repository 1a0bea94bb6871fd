"""Distributed serving of gpt-oss-20b and gpt-oss-120b on Ray, over HTTP and gRPC."""
