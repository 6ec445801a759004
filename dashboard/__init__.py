"""The page people look at, and the report they mail: read topics and Redis, write nothing to either."""
