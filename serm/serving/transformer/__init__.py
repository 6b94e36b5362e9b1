"""KServe's transformer: it ranks a query's documents by the variant of its user, and logs what was served."""
