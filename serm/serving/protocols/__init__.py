"""What clients send and get, a module a protocol: KServe's v1 and v2, in JSON, binary and gRPC, and rerankers'."""
