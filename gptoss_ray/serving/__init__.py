"""HTTP and gRPC on one side, tokens on the other; the only package that knows FastAPI and grpc servers."""
