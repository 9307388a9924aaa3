"""Sources to documents: files found, opened, decompressed and tallied."""
